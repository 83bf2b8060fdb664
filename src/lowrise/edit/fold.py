"""Fold, ReplaceMe's repair (arXiv 2505.02819): a linear map in the last layer before a gap, in closed form.

The MLP's output matrix W becomes W·T, T (d, d), so that what leaves the layer meets h[stop], the dense model's state
behind the gap. In a mixture of experts the last matrices of all of them, and of a shared one, become W·T alike, so that
what they make together is mapped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrise.edit.block_write import BlockWrite, watched
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.gram import Solution, fold, gather
from lowrise.edit.layerwise import repair_layers
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.repair import gaps
from lowrise.edit.write import Write, mlp_of
from lowrise.edit.writing import sums
from lowrise.errors import ModelError
from lowrise.exact import exact
from lowrise.model.structure import known_by_name

Solve = Callable[[LayerwisePass, Write], Solution]
SolveMap = Callable[[LayerwisePass], Solution]


def repair(task: RepairTask) -> Repaired:
    """T by least squares (equation 5)."""
    return fold_gaps(task, lambda layerwise, write: fold(*sums(layerwise, write, None), write.own), _least_squares)


def _least_squares(layerwise: LayerwisePass) -> Solution:
    tokens = (
        (held, layerwise.get("made", number), layerwise.target(number).float() - layerwise.get("out", number).float())
        for held in (False, True)
        for number in layerwise.numbers(held=held)
    )
    d, device = layerwise.decoder.hidden_size, layerwise.device
    grams = gather((d, d), device, ((held, made, missing, None) for held, made, missing in tokens))
    return fold(*grams, torch.eye(d, device=device))


def fold_gaps(task: RepairTask, solve: Solve, solve_map: SolveMap | None = None) -> Repaired:
    """Fold what `solve` finds into the layer before each gap, from the bottom up; a Fit for each.

    Dense model and student go through the layers side by side. On disk lie, of all tokens, one state of both and the
    inputs of one layer's MLP; in memory one batch, two matrices' sums and one layer's new matrix. solve: is called with
    both models at the end of the gap, the student's layer not repaired, and gives the change of W (k, d). solve_map:
    the same where W is not known by name; gives T - 1, and in the store lie, of every batch, "made", what the layer's
    last block makes, and "out", what leaves the layer. Without it, raises ModelError for such a model.
    """
    student = task.student
    named = known_by_name(student.decoder)
    if not named and solve_map is None:
        expected, remedy = "a model whose MLP matrices are known by name", "choose fold, or another --repair"
        raise ModelError(student.decoder.where, expected, f"another one, of family {student.decoder.family}", remedy)
    bottom, before_gaps = student.layers[0], [layer for layer, _ in gaps(student)]
    if bottom > 0:
        task.progress.warn(f"no layer stands before the gap [0, {bottom}): it is dropped, not repaired")
    if not before_gaps:
        return Repaired([])
    start = bottom if bottom > 0 else before_gaps[0]
    passed = [layer for layer in student.layers if start <= layer <= before_gaps[-1]]

    def step(layerwise: LayerwisePass) -> Fit | None:
        layer, stop = layerwise.layer, layerwise.stop
        if layer not in before_gaps:
            layerwise.pass_on()
            return None
        found = _fold_layer(layerwise, solve) if solve_map is None or named else _fold_block(layerwise, solve_map)
        return Fit(layer, stop, found.ridge, found.before, found.after)

    return Repaired(repair_layers(task, passed, step, mixed=False))


def _fold_layer(layerwise: LayerwisePass, solve: Solve) -> Solution:
    """The dense model to the end of the gap; the student through the layer before it, with its new matrix."""
    write = mlp_of(layerwise.dense_layer, layerwise.parameter)
    for number, _, calls in layerwise.batches():
        layerwise.dense(number, calls)
    solution = solve(layerwise, write)
    change: Tensor = solution.change
    layerwise.leave_layer(layerwise.update(write.matrix, write.own, change))
    layerwise.advance()
    return solution


def _fold_block(layerwise: LayerwisePass, solve_map: SolveMap) -> Solution:
    """The same where the last block's matrices are several, each W of which becomes W·T."""
    block = layerwise.blocks[-1]
    for number, _, calls in layerwise.batches():
        layerwise.dense(number, calls)
        with watched(block) as rows:
            out = layerwise.run(number, calls)()
        write = BlockWrite(block, layerwise.parameter)
        made = write.written(rows(write), out.shape[:-1].numel())
        layerwise.put("made", number, made.view(out.shape))
        layerwise.put("out", number, out)
    solution = solve_map(layerwise)
    for pack in BlockWrite(block, layerwise.parameter).packs():
        write = BlockWrite(block, layerwise.parameter)
        change = torch.cat([exact(write.plain(unit)) @ exact(solution.change) for unit in pack])
        layerwise.set_weights(write.changed(pack, change, layerwise.decoder.dtype)[0])
    layerwise.pass_student()
    return solution
