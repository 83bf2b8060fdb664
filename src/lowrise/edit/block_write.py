"""What a block of a layer writes, as so many matrices side by side: of linear modules, and of every expert.

The stream is given Σ A_u·W_u, u a linear module or an expert, A_u what it is given: an expert that of the tokens that
were routed to it, times the router's weight. All are solved as one ridge regression of A = [A_1 A_2 …], as many at a
time as fit into memory. λ is in units of the mean squared input of all of them, so that an expert that few tokens came
to is held to its old matrix all the more, and one that none came to does not move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.edit.gram import Gram
from lowrise.edit.write import Normed
from lowrise.exact import exact
from lowrise.model.batching import heard, joined_rows
from lowrise.model.blocks import Block, Output
from lowrise.model.experts import Experts, Routed, routing
from lowrise.model.matrices import captured

# Of one regression, if possible. All of a large mixture together would cost the cube of all their inputs; packs that
# are solved in turn come near to that in two rounds.
MOST_INPUTS = 2048


@dataclass(frozen=True)
class Unit:
    """One matrix: of the block's write of this number, and there of this expert. inputs: k."""

    write: int
    expert: int | None
    inputs: int


@dataclass(frozen=True)
class Rows:
    """What one write is given: (n, k). tokens, experts: (n,), whose the rows are, by experts; None: all tokens' own."""

    given: Tensor
    tokens: Tensor | None = None
    experts: Tensor | None = None

    def of(self, unit: Unit) -> tuple[Tensor, Tensor | None]:
        """(rows, their tokens), of the unit alone."""
        if self.experts is None or self.tokens is None or unit.expert is None:
            return self.given, None
        ends = torch.tensor([unit.expert, unit.expert + 1], device=self.experts.device)
        start, stop = torch.searchsorted(self.experts, ends).tolist()
        return self.given[start:stop], self.tokens[start:stop]


class BlockWrite:
    """The writes of `block`. parameter: the layer's, by path, as they are now."""

    def __init__(self, block: Block, parameter: Callable[[str], Tensor]) -> None:
        self.block, self._parameter = block, parameter
        self.normed = None if block.norm is None else Normed(block.norm, parameter(block.norm.parameter))

    def units(self) -> Iterator[Unit]:
        for number, write in enumerate(self.block.writes):
            if isinstance(write, Experts):
                count, k, _ = write.shape
                yield from (Unit(number, expert, k) for expert in range(count))
            else:
                matrix = write.matrix.matrix(self._parameter(write.matrix.parameter))
                yield Unit(number, None, len(matrix))

    def packs(self) -> list[list[Unit]]:
        """All units, experts last, so many at a time as have no more than MOST_INPUTS together, one at least."""
        found: list[list[Unit]] = []
        for unit in sorted(self.units(), key=lambda unit: unit.expert is not None):
            if not found or sum(one.inputs for one in found[-1]) + unit.inputs > MOST_INPUTS:
                found.append([])
            found[-1].append(unit)
        return found

    def plain(self, unit: Unit) -> Tensor:
        """(k, d), float32, as it is before a norm."""
        write = self.block.writes[unit.write]
        if isinstance(write, Experts):
            assert unit.expert is not None
            return write.matrix(self._parameter(write.parameter), unit.expert)
        return write.matrix.matrix(self._parameter(write.matrix.parameter)).float()

    def own(self, unit: Unit) -> Tensor:
        """W (k, d), float32: times what the norm scales by, where there is one."""
        plain = self.plain(unit)
        return plain if self.normed is None else plain * self.normed.scale

    def written(self, rows: Sequence[Rows], tokens: int) -> Tensor:
        """(tokens, d), float32: what the stream is given of what the writes are given, biases left out."""
        return _sum(rows, ((unit, self.own(unit)) for unit in self.units()), tokens)

    def changed(self, pack: Sequence[Unit], change: Tensor, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
        """(parameters by path when the units' matrices, before a norm, are changed by `change` (Σk, d), the change that
        is left when they are rounded to `dtype`).
        """
        made: dict[str, Tensor] = {}
        left = []
        for unit, part in zip(pack, change.split([unit.inputs for unit in pack]), strict=True):
            write, own = self.block.writes[unit.write], self.plain(unit)
            part = part.float().to(own.device)
            if isinstance(write, Output):
                made[write.matrix.parameter], rounded = write.matrix.moved(own, part, dtype)
            else:
                assert unit.expert is not None
                if write.parameter not in made:
                    made[write.parameter] = self._parameter(write.parameter).clone()
                made[write.parameter][unit.expert] = write.stored(own + part).to(dtype)
                rounded = write.matrix(made[write.parameter], unit.expert) - own
            left.append(rounded)
        return made, torch.cat(left)

    def moved(
        self, pack: Sequence[Unit], change: Tensor, fit: Gram, dtype: torch.dtype, *, whole: bool
    ) -> dict[str, Tensor]:
        """Parameters by path when `own`, behind a norm, is changed by `change`: as of `Write.moved`.

        whole: whether the units are all that the norm is given; else what it scales by stays as it is.
        """
        assert self.normed is not None
        plain = torch.cat([self.plain(unit) for unit in pack])
        more = self.normed.before(change.float().to(plain.device))
        made, rounded = self.changed(pack, more, dtype)
        if whole:
            made[self.normed.norm.parameter] = self.normed.grown(
                fit.inputs, exact(plain), exact(plain + rounded), dtype
            )
        return made

    @property
    def paths(self) -> set[str]:
        """In the layer, of the parameters that they are made of."""
        own = {write.parameter if isinstance(write, Experts) else write.matrix.parameter for write in self.block.writes}
        return own | (set() if self.block.norm is None else {self.block.norm.parameter})


def less(missing: Tensor, rows: Sequence[Rows], pack: Sequence[Unit], change: Tensor) -> Tensor:
    """`missing` (tokens, d) when the units write more, by `change` (Σk, d) of their matrices."""
    parts = change.split([unit.inputs for unit in pack])
    return missing - _sum(rows, zip(pack, parts, strict=True), len(missing))


def _sum(rows: Sequence[Rows], units: Iterable[tuple[Unit, Tensor]], tokens: int) -> Tensor:
    total = None
    for unit, matrix in units:
        given, of_tokens = rows[unit.write].of(unit)
        made = given.float() @ matrix
        if total is None:
            total = torch.zeros(tokens, matrix.shape[1], device=made.device)
        if of_tokens is None:
            total += made
        else:
            total.index_add_(0, of_tokens, made)
    assert total is not None
    return total


@contextmanager
def watched(block: Block) -> Iterator[Callable[[BlockWrite], list[Rows]]]:
    """While it lasts, what the block's writes are given is noted; what is yielded tells it of the last call, for
    `BlockWrite.own`.
    """
    seen: list[tuple[list[Tensor], list[Tensor]] | list[Routed]] = []
    with ExitStack() as stack:
        for write in block.writes:
            if isinstance(write, Experts):
                seen.append(stack.enter_context(routing(write)))
            else:
                given = stack.enter_context(captured(write.matrix.module))
                seen.append((given, [] if write.gate is None else stack.enter_context(_outputs(write.gate))))
        before = [] if block.norm is None else stack.enter_context(captured(block.norm.module))

        def rows(write: BlockWrite) -> list[Rows]:
            short = None if write.normed is None else write.normed.shortening(before[-1].flatten(0, -2).float())
            return [_shortened(_rows(one), short) for one in seen]

        yield rows


def _rows(seen: tuple[list[Tensor], list[Tensor]] | list[Routed]) -> Rows:
    if isinstance(seen, tuple):
        given = seen[0][-1].flatten(0, -2)
        return Rows(given.float() * torch.sigmoid(seen[1][-1].flatten(0, -2).float()) if seen[1] else given)
    routed = seen[-1]
    order = routed.experts.argsort(stable=True)
    return Rows(routed.given[order], routed.tokens[order], routed.experts[order])


def _shortened(rows: Rows, short: Tensor | None) -> Rows:
    """short: (tokens, 1), 1/rms of what a norm is given."""
    if short is None:
        return rows
    return Rows(rows.given.float() * (short if rows.tokens is None else short[rows.tokens]), rows.tokens, rows.experts)


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, what `module` makes is appended to the list that it yields."""
    with heard(joined_rows) as seen:
        hook = module.register_forward_hook(lambda _module, _args, out: seen.append(out))
        try:
            yield seen
        finally:
            hook.remove()
