"""What the last block of a layer writes, solved anew: all its matrices together, or pack by pack in two rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.edit.block_write import BlockWrite, Rows, Unit, less, watched
from lowrise.edit.gram import RIDGES, Gram, Solution, solve, two_grams, weight_of
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.model.blocks import Block

ROUNDS = 2  # where packs are solved one after the other, each on what the others left
STEPS = (1.0, 0.5, 0.25)

Missing = Iterable[tuple[bool, list[Rows], Tensor, Tensor]]


@dataclass(frozen=True)
class BlockSolution:
    """ridge, before, after: as of `Solution`; ridge of the first pack that moved. experts, few: as of `Fit`."""

    ridge: float | None
    before: float
    after: float
    experts: int
    few: int


NOTHING = BlockSolution(None, 0.0, 0.0, 0, 0)


def refit_last_write(
    context: LayerContext, error: Callable[[], float], ridges: Sequence[float] = RIDGES
) -> BlockSolution:
    """The last block's matrices meet h[stop] as well as matrices can; behind a norm by steps, as in `edit/writing.py`.

    error: mean error of a held-out token, by the layer as it then is. On disk lie, of all tokens, what the matrices are
    given and what is missing; in memory the sums of one pack.
    """
    block = context.blocks[-1]
    packs = BlockWrite(block, context.parameter).packs()
    ridge, before, after = None, None, 0.0
    counts: dict[Unit, int] = {}
    stale = True
    for _ in range(1 if len(packs) == 1 else ROUNDS):
        for pack in packs:
            if stale:
                _keep(context, block)
            fit, held_out = pack_sums(context, pack, _kept(context, block), counts)
            write = BlockWrite(block, context.parameter)
            solution = solve(fit, held_out, ridges, torch.cat([write.own(unit) for unit in pack]))
            before, after = solution.before if before is None else before, solution.after
            stale = block.norm is not None and solution.ridge is not None
            if solution.ridge is None:
                continue
            ridge = solution.ridge if ridge is None else ridge
            if stale:
                after = step(context, write, pack, solution, fit, error, whole=len(packs) == 1)
                continue
            made, change = write.changed(pack, solution.change, context.decoder.dtype)
            context.set_weights(made)
            if len(packs) > 1:
                _take_off(context, block, pack, change)
    experts = {unit: count for unit, count in counts.items() if unit.expert is not None}
    few = sum(count < unit.inputs for unit, count in experts.items())
    return BlockSolution(ridge, before or 0.0, after, len(experts), few)


def pack_sums(
    context: LayerContext, pack: Sequence[Unit], batches: Missing, counts: dict[Unit, int] | None = None
) -> tuple[Gram, Gram]:
    """Of fitted and of held-out tokens. batches: (whether it is held out, rows, what is missing, the target).

    counts: is told how many fitted tokens came to each unit.
    """
    inputs = sum(unit.inputs for unit in pack)
    grams = two_grams((inputs, context.decoder.hidden_size), context.device)
    seen = dict.fromkeys(pack, 0)
    for held, rows, missing, target in batches:
        parts = [rows[unit.write].of(unit) for unit in pack]
        grams[held].add_parts(parts, missing.flatten(0, -2), weight_of(target).flatten())
        for unit, (given, _) in zip(pack, parts, strict=True):
            seen[unit] += 0 if held else len(given)
    if counts is not None:
        counts.update(seen)
    return grams


def step(
    context: LayerContext,
    write: BlockWrite,
    pack: Sequence[Unit],
    solution: Solution,
    fit: Gram,
    error: Callable[[], float],
    *,
    whole: bool,
) -> float:
    """As much of `solution` as is taken behind a norm; the mean error of a held-out token then. whole: as of
    `BlockWrite.moved`.
    """
    inputs = sum(unit.inputs for unit in pack)
    start = {name: context.parameter(name) for name in write.paths}
    for share in STEPS:
        change = share * solution.change[:inputs]
        context.set_weights(write.moved(pack, change, fit, context.decoder.dtype, whole=whole))
        after = error()
        if after < solution.before:
            return after
    context.set_weights(start)
    return solution.before


def _keep(context: LayerContext, block: Block) -> None:
    """Run the layer; what its last block's writes are given and what is missing of h[stop] lie in the store."""
    for number, _, calls in context.batches():
        with watched(block) as rows:
            out = context.run(number, calls)()
        context.put("missing", number, context.target(number).float() - out.float())
        for place, one in enumerate(rows(BlockWrite(block, context.parameter))):
            context.put_rows(("given", place), number, one.given, one.tokens, one.experts)


def _kept(context: LayerContext, block: Block) -> Iterator[tuple[bool, list[Rows], Tensor, Tensor]]:
    for held in (False, True):
        for number in context.numbers(held=held):
            rows = _rows(context, block, number)
            yield held, rows, context.get("missing", number), context.target(number)


def _rows(context: LayerContext, block: Block, number: int) -> list[Rows]:
    found = []
    for place in range(len(block.writes)):
        given, tokens, experts = context.get_rows(("given", place), number)
        assert given is not None
        found.append(Rows(given, tokens, experts))
    return found


def _take_off(context: LayerContext, block: Block, pack: Sequence[Unit], change: Tensor) -> None:
    """What the pack writes more is missing no more."""
    for held in (False, True):
        for number in context.numbers(held=held):
            rows = _rows(context, block, number)
            missing = context.get("missing", number)
            left = less(missing.flatten(0, -2), rows, pack, change)
            context.put("missing", number, left.view_as(missing))
