"""Refit of a layer that no row of `families.py` names: a mixture of experts, a mixer, matrices by other names.

As `edit/refit.py` has it for attention and an MLP, block by block as `model/blocks.py` finds them. What a block reads
is led back to what the dense one is given; routers are left alone. What the last block writes aims at h[stop]; what
the others write at the dense stream behind them, but before a gap at h[stop] too, together with the last one's, whose
part is not kept. Before a gap block reconstruction follows, and the last write once more. No neurons move. What made
held-out tokens worse in the end is taken back, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from lowrise.edit.block_reconstruction import reconstruct_block
from lowrise.edit.block_write import BlockWrite, Rows, Unit, watched
from lowrise.edit.block_writing import pack_sums, refit_last_write, step
from lowrise.edit.fit import Fit
from lowrise.edit.gram import Solution, solve
from lowrise.edit.input_map import fit_read_map, fold_input_map
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.writing import held_out_error, mean_error
from lowrise.model.blocks import Block
from lowrise.model.layer import LayerArguments
from lowrise.model.matrices import captured


def refit_blocks(layerwise: LayerwisePass) -> Fit:
    """Solve the layer at hand, and both models go on to the next; returned is what came of it by `held_out_error`."""
    layer, stop, blocks = layerwise.layer, layerwise.stop, layerwise.blocks
    start = dict(layerwise.student.changed.get(layer, {}))
    _pass_dense(layerwise, blocks)
    before = held_out_error(layerwise)
    for number, block in enumerate(blocks):
        for place, read in enumerate(block.reads):
            found = fit_read_map(layerwise, ("read", number, place), read.module, raw=read.raw)
            fold_input_map(layerwise, read.matrices, found, read.experts)
        if block.writes and number < len(blocks) - 1:
            _refit_inner_write(layerwise, number)
    written = bool(blocks[-1].writes)
    solved = refit_last_write(layerwise, lambda: held_out_error(layerwise)) if written else None
    descended = False
    if layerwise.gap:
        one, other = reconstruct_block(layerwise)
        descended = other < one
        if descended and written:
            solved = refit_last_write(layerwise, lambda: held_out_error(layerwise))
    after = held_out_error(layerwise)
    if not after < before:  # nor if one is not a number
        layerwise.reset(start)
        solved, after, descended = None, before, False
    layerwise.pass_student()
    fit = Fit(layer, stop, None, before, after, descended=descended, written=written)
    return fit if solved is None else replace(fit, ridge=solved.ridge, experts=solved.experts, few=solved.few)


def _pass_dense(layerwise: LayerwisePass, blocks: tuple[Block, ...]) -> None:
    """The dense model to h[stop]. In the store lies what this layer's blocks were given to read and, if no gap follows,
    the stream behind each but the last, as far as what is written so far is known, but for biases.
    """
    layer = layerwise.dense_layer
    known = _known(layerwise, blocks)
    for number, _, calls in layerwise.batches():
        with ExitStack() as stack:
            given = {
                ("read", block, place): stack.enter_context(captured(read.module))
                for block, one in enumerate(blocks)
                for place, read in enumerate(one.reads)
            }
            entering = stack.enter_context(captured(layer.module))
            rows = [stack.enter_context(watched(block)) for block in blocks[:known]]
            h = layerwise.dense(number, calls)
        for what, (value,) in given.items():
            layerwise.put(what, number, value.flatten(0, -2))
        stream = _skipped(blocks, entering[0])
        for block, (one, of) in enumerate(zip(blocks, rows, strict=False)):
            write = BlockWrite(one, layer.parameter)
            stream = stream + write.written(of(write), len(stream))
            layerwise.put(("stream", block), number, stream.to(h.dtype).view_as(h))


def _known(layerwise: LayerwisePass, blocks: tuple[Block, ...]) -> int:
    """Behind how many of the blocks the dense stream is aimed at."""
    inner = [bool(block.writes) and block.skip_scale is not None for block in blocks[:-1]]
    return 0 if layerwise.gap else (*inner, False).index(False)


def _skipped(blocks: tuple[Block, ...], h: Tensor) -> Tensor:
    """(tokens, d), float32: what is left of `h`, what enters the layer, where all is written."""
    stream = h.flatten(0, -2).float()
    skip_scale = blocks[0].skip_scale
    return stream if skip_scale is None or skip_scale == 1 else skip_scale * stream


def _refit_inner_write(layerwise: LayerwisePass, number: int) -> None:
    """What a block writes that is not the last one: pack by pack, each on the layer as the ones before left it."""
    block = layerwise.blocks[number]
    packs = BlockWrite(block, layerwise.parameter).packs()
    for pack in packs:
        beside = _beside(layerwise, block)
        fit, held_out = pack_sums(layerwise, [*pack, *beside], _behind(layerwise, number, layerwise.batches()))
        solution = solve(fit, held_out)
        if solution.ridge is None:
            continue
        inputs = sum(unit.inputs for unit in pack)
        write = BlockWrite(block, layerwise.parameter)
        if block.norm is None:
            made, _ = write.changed(pack, solution.change[:inputs], layerwise.decoder.dtype)
            layerwise.set_weights(made)
        else:
            alone = Solution(solution.change[:inputs], solution.ridge, solution.before, solution.after)

            def error() -> float:
                batches = ((one, True, calls) for one, calls in layerwise.held_out())
                return mean_error((target, missing) for _, _, missing, target in _behind(layerwise, number, batches))

            step(layerwise, write, pack, alone, fit, error, whole=len(packs) == 1)


def _beside(layerwise: LayerwisePass, block: Block) -> list[Unit]:
    """What of the last block's is solved together with what `block` writes, before a gap: its first pack."""
    last = layerwise.blocks[-1]
    if not layerwise.gap or not last.writes:
        return []
    found = BlockWrite(last, layerwise.parameter).packs()[0]
    return [replace(unit, write=unit.write + len(block.writes)) for unit in found]


def _behind(
    layerwise: LayerwisePass, number: int, batches: Iterable[tuple[int, bool, list[LayerArguments]]]
) -> Iterator[tuple[bool, list[Rows], Tensor, Tensor]]:
    """(whether it is held out, what the block's writes are given, what is missing, the target), of every batch.

    Before a gap what the last block's writes are given comes after the block's own.
    """
    blocks = layerwise.blocks
    to_stream = number < _known(layerwise, blocks)
    seen = blocks[: number + 1] if to_stream else [blocks[number], blocks[-1]]
    for batch, held, calls in batches:
        with ExitStack() as stack:
            rows = [stack.enter_context(watched(block)) for block in seen]
            out = layerwise.run(batch, calls)()
        writes = [BlockWrite(block, layerwise.parameter) for block in seen]
        given = [of(write) for of, write in zip(rows, writes, strict=True)]
        if not to_stream:
            target = layerwise.target(batch)
            yield held, [*given[0], *given[1]], target.float() - out.float(), target
            continue
        target = layerwise.get(("stream", number), batch)
        stream = _skipped(blocks, layerwise.get("student", batch))
        for write, one in zip(writes, given, strict=True):
            stream = stream + write.written(one, len(stream))
        yield held, given[-1], target.float() - stream.view_as(target), target
