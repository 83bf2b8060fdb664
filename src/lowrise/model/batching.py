"""How much is run at once: by what the device has room for, and in smaller parts once that was too much.

On CPU sizes are fixed, for results hang on them to the last digit and more at once is no faster. On an accelerator they
are powers of two that follow from the memory that is free when they are first asked for; then they stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")

CPU_TOKENS = 1024
_TOKENS = (1024, 32_768)  # of a batch on an accelerator, at least and at most
_WHOLE, _PIECE = (2**24, 2**30), (2**20, 2**26)  # numbers of logits, likewise
# Up to 32 MiB of logits the C library hands out the same memory again; more than that would be mapped, cleared and
# given back for every piece.
_CPU_PIECE = 2**23
CPU_CACHE = 3 * 2**30  # bytes
_CPU_WHOLE = 2**26  # held at once on CPU, where nothing says in time that memory ends
# Shares of the free memory. A batch leaves room for the sums and factors of a repair, logits for what looks at them.
_BATCH_SHARE, _WHOLE_SHARE, _PIECE_SHARE = 4, 8, 32
_COPIES = 3  # of logits: lm-eval holds them three times, a loss no fewer


class Batching:
    """Of one model on its device. token_bytes: what a token of a batch takes."""

    def __init__(self, device: torch.device, token_bytes: int) -> None:
        self._device, self._token_bytes = device, token_bytes
        self._most: int | None = None  # tokens that were not too many, once some were

    @property
    def fixed(self) -> bool:
        """Whether sizes are the same on every machine."""
        return self._free is None

    @cached_property
    def tokens(self) -> int:
        """Of a batch, about."""
        return CPU_TOKENS if self._free is None else _power(self._free // _BATCH_SHARE // self._token_bytes, _TOKENS)

    @cached_property
    def cache_bytes(self) -> int:
        """Most for keys and values of rows that are written together."""
        return CPU_CACHE if self._free is None else self._free // _BATCH_SHARE

    @cached_property
    def whole_logits(self) -> int:
        """Numbers of float32 logits, where those of a whole batch are kept."""
        return _CPU_WHOLE if self._free is None else _power(self._free // _WHOLE_SHARE // (4 * _COPIES), _WHOLE)

    @cached_property
    def piece_of_logits(self) -> int:
        """The same where they are looked at piece by piece."""
        return _CPU_PIECE if self._free is None else _power(self._free // _PIECE_SHARE // (4 * _COPIES), _PIECE)

    @cached_property
    def chunk_of_logits(self) -> int:
        """The same with their gradients, which are taken while they are at hand."""
        return 2 * self.piece_of_logits

    @cached_property
    def _free(self) -> int | None:
        return free_memory(self._device)

    def follow(self, other: Batching) -> None:
        """What was learned with another model on the same device holds here too."""
        self._most = other._most

    def fewer_logits(self) -> None:
        """Pieces of them are half as large from now on."""
        _clear()
        self.piece_of_logits //= 2
        _tell(f"{self._device} ran out of memory: logits are made {self.piece_of_logits:,} at a time from now on")

    def in_parts(
        self, rows: int, length: int, run: Callable[[slice], Made], join: Callable[[Sequence[Made]], Made]
    ) -> Made:
        """What `run` makes of the rows [0, rows) of a batch, `length` tokens each, joined of as many parts as must be.

        Where the device runs out of memory, half as many rows are run at a time, from then on and for all that comes
        later. run: changes nothing but what hooks of `heard` note, for what failed is run again. A single row that does
        not fit raises what torch does.
        """
        size = rows if self._most is None else min(rows, max(1, self._most // length))
        marks = [len(one) for one, _ in _heard]
        while True:
            try:
                if size >= rows:
                    return run(slice(0, rows))
                return self._joined(rows, size, run, join, marks)
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            # here, where the error with all that its frames hold is gone
            for (one, _), mark in zip(_heard, marks, strict=True):
                del one[mark:]
            size = -(-min(size, rows) // 2)
            self.less(size * length, rows * length)

    def parts(self, ids: Tensor, run: Callable[[Tensor], Made]) -> Iterator[tuple[Tensor, Made]]:
        """(some rows of ids (batch, tokens), what `run` makes of them), in as many parts as must be, as `in_parts`."""
        start, length = 0, ids.shape[1]
        while start < len(ids):
            left = ids[start:]
            some = left if self._most is None else left[: max(1, self._most // length)]
            try:
                made = run(some)
            except RuntimeError as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield some, made
                del made
                start += len(some)
                continue
            self.less(-(-len(some) // 2) * length, len(some) * length)

    def _joined(
        self,
        rows: int,
        size: int,
        run: Callable[[slice], Made],
        join: Callable[[Sequence[Made]], Made],
        marks: list[int],
    ) -> Made:
        made: list[Made] = []
        notes: list[list[list[Any]]] = [[] for _ in _heard]
        for first in range(0, rows, size):
            part = slice(first, min(first + size, rows))
            with _at_hand(part):
                made.append(run(part))
            for of_one, (one, _), mark in zip(notes, _heard, marks, strict=True):
                of_one.append(one[mark:])
                del one[mark:]
        for of_one, (one, joined) in zip(notes, _heard, strict=True):
            one += [joined(parts) for parts in zip(*of_one, strict=True)]
        return join(made)

    def halving(self, rows: int, length: int, run: Callable[[int], Made], shrinks: bool = True) -> Made:
        """What `run` makes with at most `rows` rows at a time, `length` tokens each: anew, from its beginning, with
        half as many where the device runs out of memory. shrinks: whether fewer may be tried at all.
        """
        while True:
            try:
                return run(rows)
            except RuntimeError as error:
                if rows == 1 or not shrinks or not is_out_of_memory(error):
                    raise
            whole, rows = rows, -(-rows // 2)
            self.less(rows * length, whole * length)

    def less(self, tokens: int, whole: int) -> None:
        """No more than `tokens` are run at a time from now on, for `whole` of them were too many."""
        _clear()
        if self._most is None or tokens < self._most:
            self._most = tokens
            _tell(f"{self._device} ran out of memory: {tokens:,} tokens are run at a time from now on, not {whole:,}")


def batching_of(layers: nn.ModuleList, hidden: int | None, device: torch.device) -> Batching:
    """For the model that has these layers. A token takes its states before all of them, in their format, and, in
    float32, what a layer and the sums over its inputs make of it.
    """
    widest = max((max(one.shape[-2:]) for one in layers.parameters() if one.dim() > 1), default=1)
    hidden = hidden or widest
    itemsize = next(layers.parameters()).element_size()
    return Batching(device, itemsize * hidden * (len(layers) + 1) + 4 * 8 * (hidden + widest))


# -- hooks that note what a batch makes ---------------------------------------------------------------------------

_heard: list[tuple[list[Any], Callable[[Sequence[Any]], Any]]] = []


@contextmanager
def heard(join: Callable[[Sequence[Made]], Made]) -> Iterator[list[Made]]:
    """A list that hooks append to while it lasts; of a batch that is run in parts, what they appended is joined."""
    seen: list[Made] = []
    _heard.append((seen, join))
    try:
        yield seen
    finally:
        _heard[:] = [one for one in _heard if one[0] is not seen]


_rows: list[slice] = []


@contextmanager
def _at_hand(rows: slice) -> Iterator[None]:
    _rows.append(rows)
    try:
        yield
    finally:
        _rows.pop()


def of_rows_at_hand(whole: Tensor) -> Tensor:
    """Of a batch's (batch, ...) the rows that are being run, where it is run in parts."""
    return whole[_rows[-1]] if _rows else whole


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """Of tensors whose first axis is that of the rows, or of all their tokens."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


# -- the device ---------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int | None:
    """Bytes of an accelerator that are free, those among them that torch holds and does not use; None: nobody knows."""
    if device.type in ("cpu", "meta"):
        return None
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    held = module.memory_reserved(device) - module.memory_allocated(device)
    return int(module.mem_get_info(device)[0] + held)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says so, of any device."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return isinstance(error, torch.OutOfMemoryError)
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(RuntimeError(str(error))))


def _clear() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _power(most: int, bounds: tuple[int, int]) -> int:
    """The largest power of two up to `most`, within bounds that are such powers."""
    least, highest = bounds
    return min(highest, max(least, 1 << max(0, most.bit_length() - 1)))


# -- who hears of it ----------------------------------------------------------------------------------------------

_told: list[Callable[[str], None]] = []


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, `tell` is told, in a sentence, when a device turns out to have less room."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.pop()


def _tell(text: str) -> None:
    if _told:
        _told[-1](text)
    else:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
