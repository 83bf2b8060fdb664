"""Fold, ReplaceMe's repair (arXiv 2505.02819): a linear map in the last layer before a gap, in closed form.

The MLP's output matrix W becomes W·T, T (d, d), so that what leaves the layer meets h[stop], the dense model's state
behind the gap.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.gram import Solution, fold
from lowrise.edit.layerwise import repair_layers
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.repair import gaps
from lowrise.edit.write import Write, mlp_of
from lowrise.edit.writing import sums

Solve = Callable[[LayerwisePass, Write], Solution]


def repair(task: RepairTask) -> Repaired:
    """T by least squares (equation 5)."""
    return fold_gaps(task, lambda layerwise, write: fold(*sums(layerwise, write, None), write.own))


def fold_gaps(task: RepairTask, solve: Solve) -> Repaired:
    """Fold what `solve` finds into the layer before each gap, from the bottom up; a Fit for each.

    Dense model and student go through the layers side by side. On disk lie, of all tokens, one state of both and the
    inputs of one layer's MLP; in memory one batch, two matrices' sums and one layer's new matrix. solve: is called with
    both models at the end of the gap, the student's layer not repaired, and gives the change of W (k, d).
    """
    student = task.student
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
        found = _fold_layer(layerwise, solve)
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
