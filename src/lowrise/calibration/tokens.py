"""Packed windows of tokens: what every pass over calibration data runs on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from lowrise.errors import TextError
from lowrise.plan import CalibrationRecord, TextRecord

# Tokens of the shorter windows of `mixed_batches`: a question with its answer. In long ones a token in twenty has so
# little before it.
SHORT = 64


@dataclass(frozen=True)
class Windows:
    """Token windows (windows, length), int64, full and unpadded, in the seeded order they are used in.

    written: (windows,) bool, those that the model wrote itself; None where none stands beside the other kind.
    prefix: how many tokens at the front of every window are what the tokenizer puts before a text, BOS: context, never
    a target. For the statistics of states they are positions like others, for the model sees them. texts: the files.
    """

    ids: Tensor
    source: str
    seed: int
    written: Tensor | None = None
    prefix: int = 0
    texts: tuple[TextRecord, ...] = ()

    @property
    def length(self) -> int:
        """Tokens a window."""
        return int(self.ids.shape[1])

    @property
    def tokens(self) -> int:
        """In all windows."""
        return self.ids.numel()

    @property
    def skipped(self) -> int:
        """Positions at the front of a window that predict nothing: all of a prefix but its last."""
        return max(0, self.prefix - 1)

    @property
    def targets(self) -> int:
        """Tokens that are predicted: those of the text that have a token before them."""
        return len(self) * (self.length - 1 - self.skipped)

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def batches(self, tokens: int = 1024) -> Iterator[Tensor]:
        """Batches of about `tokens` tokens, at least one window each; none of no windows."""
        return iter(self.ids.split(max(1, tokens // self.length)) if len(self) else ())

    def mixed_batches(self, tokens: int = 1024) -> Iterator[Tensor]:
        """The same, every other window cut into windows of SHORT tokens: they come last, in batches of their own.

        Models are asked short questions too. Windows that hold less than two stay whole.
        """
        if self.length < 2 * SHORT:
            yield from self.batches(tokens)
            return
        whole, cut = (self._rows(slice(first, None, 2)) for first in (0, 1))
        yield from whole.batches(tokens)
        yield from cut.pieces(SHORT).batches(tokens)

    def pieces(self, length: int) -> Windows:
        """Windows of `length` tokens at most, the first of every window before all second ones; a rest is left out.

        Each begins with the prefix.
        """
        front, text = self.ids[:, : self.prefix], self.ids[:, self.prefix :]
        room = max(1, length - self.prefix)
        count = max(1, text.shape[1] // room)
        parts = text[:, : count * room].unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
        parts = torch.cat([front.repeat(count, 1), parts], dim=1)
        return replace(self, ids=parts, written=None if self.written is None else self.written.repeat(count))

    def first(self, count: int | None) -> Windows:
        """The first `count` windows; None: all."""
        return self._rows(slice(count))

    def written_first(self) -> Windows:
        """Those that the model wrote before the others, each in the order they were in."""
        if self.written is None:
            return self
        return self._rows(self.written.argsort(descending=True, stable=True))

    def with_special_tokens(self, special: Sequence[int]) -> Windows:
        """The same with one token of each window's text, never its first, overwritten by one of `special`, in turn.

        Text of plain files holds no separators, and what a model does at them, often a massive activation, is then
        seen by nothing that is fitted on it. Where they stand is decided by the seed. Without `special`, the windows.
        """
        if not special:
            return self
        generator = torch.Generator().manual_seed(self.seed)
        first = max(1, self.prefix)
        if first == self.length:
            return self
        places = torch.randint(first, self.length, (len(self),), generator=generator)
        ids = self.ids.clone()
        ids[torch.arange(len(self)), places] = torch.tensor(special)[torch.arange(len(self)) % len(special)]
        return replace(self, ids=ids)

    def split(self, share: float) -> tuple[Windows, Windows]:
        """(rest, held out): the last `share` of the windows, at least one of each. The order is already random.

        Raises TextError for a single window, which cannot be split.
        """
        if len(self) < 2:
            expected = f"at least two windows of {self.length} tokens, one of them to hold out"
            raise TextError(
                self.source, expected, f"{len(self)}", "give more text, more --samples or a smaller --length"
            )
        return self.cut(len(self) - min(max(1, round(share * len(self))), len(self) - 1))

    def cut(self, count: int) -> tuple[Windows, Windows]:
        """(the first `count` windows, the others), either may be empty."""
        return self.first(count), self._rows(slice(count, None))

    def _rows(self, rows: slice | Tensor) -> Windows:
        return replace(self, ids=self.ids[rows], written=None if self.written is None else self.written[rows])

    def record(self) -> CalibrationRecord:
        return record(self)

    def sha256(self) -> str:
        """Over the shape and the ids as little-endian int64: another order is another hash."""
        digest = hashlib.sha256(f"{tuple(self.ids.shape)}".encode())
        digest.update(self.ids.contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()


class Calibration(Protocol):
    """What every kind of calibration tokens can say of itself."""

    @property
    def source(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def texts(self) -> tuple[TextRecord, ...]: ...
    def __len__(self) -> int: ...
    def sha256(self) -> str: ...


def record(made: Calibration) -> CalibrationRecord:
    """What a plan says of the tokens it was made from."""
    return CalibrationRecord(
        source=made.source,
        tokens=made.tokens,
        sha256=made.sha256(),
        seed=made.seed,
        samples=len(made),
        length=made.length,
        bos=made.prefix > 0,
        sources=list(made.texts),
    )


def pack(streams: list[Tensor], length: int) -> Tensor:
    """Token streams, each (tokens,) → windows (n, length); a window never spans two streams, partial ones go."""
    cut = [stream[: len(stream) // length * length].view(-1, length) for stream in streams]
    return torch.cat(cut) if cut else torch.empty(0, length, dtype=torch.long)


def sample(windows: Tensor, samples: int, seed: int) -> Tensor:
    """At most `samples` of the windows, without repetition, in an order that the seed decides."""
    return windows[shuffled(len(windows), seed)[:samples]]


def shuffled(count: int, seed: int) -> Tensor:
    """0 to count - 1, in an order that the seed decides."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
