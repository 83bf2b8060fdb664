"""Repair of a cut, layer by layer, from the bottom up, in one pass over the tokens.

`refit` solves all matrices from the first gap up anew (`edit/refit.py`). `fold` and `fold-cosine`, ReplaceMe's (arXiv
2505.02819), change the MLP's output matrix W of the last layer before a gap to W·T, T (d, d), so that what leaves the
layer meets h[stop], the dense model's state behind the gap.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.cosine_map import cosine_map
from lowrise.edit.fit import Fit
from lowrise.edit.gram import Solution, fold
from lowrise.edit.refit import refit_layer
from lowrise.edit.student import Student
from lowrise.edit.sweep import Sweep
from lowrise.edit.write import mlp_of
from lowrise.edit.writing import runs, sums
from lowrise.exact import exact
from lowrise.model.refittable import check_refit
from lowrise.observe.shelf import Shelf
from lowrise.progress import Reporter
from lowrise.recipe import Repair


def gaps(student: Student) -> list[tuple[int, int]]:
    """(layer, stop): the layers whose output the next one does not expect, from the bottom up.

    A gap at the very bottom has no layer before it and is not among them.
    """
    found = [(layer, student.following(layer)) for layer in student.layers]
    return [(layer, stop) for layer, stop in found if stop != layer + 1]


@torch.no_grad()
def repair(student: Student, windows: Windows, held_out: int, how: Repair, report: Reporter) -> list[Fit]:
    """Solve matrices anew, in place; of every layer that was solved what came of it, from the bottom up.

    held_out: so many windows, the last ones, choose λ and epochs and are fitted by nothing. Dense model and student go
    through the layers side by side, and a layer that both have passed is the student's from then on; a plan of it must
    have passed `check_writes` or `check_refit`. On disk lie, of all tokens, one state of both, the inputs of one
    layer's matrices and those of the MLPs in the gap behind it; in memory one batch, two matrices' sums, one layer's
    new parameters, while neurons move four float64 matrices of up to (2k, 2k), k neurons a layer (`edit/neurons.py`),
    and then, with Adam's moments, a layer six times in float32 (`edit/descent.py`).
    """
    before_gaps = [layer for layer, _ in gaps(student)]
    bottom = student.layers[0]
    if not before_gaps and (bottom == 0 or how != "refit"):
        return []
    start = bottom if bottom > 0 else before_gaps[0]
    swept = [layer for layer in student.layers if layer >= start and (how == "refit" or layer <= before_gaps[-1])]
    writes = check_refit(student.decoder) if how == "refit" else True
    fits = []
    with Shelf() as shelf, report.bar("repairing", len(swept)) as bar:
        sweep = Sweep(student, windows, held_out, shelf, start, mixed=how == "refit")
        for layer in swept:
            if how == "refit":
                fits.append(refit_layer(sweep, writes))
            elif layer in before_gaps:
                stop = sweep.stop
                folded = _fold_layer(sweep, how)
                fits.append(Fit(layer, stop, folded.ridge, folded.before, folded.after))
            else:
                sweep.pass_on()
            bar.advance(windows.tokens, f"layer {layer}")
    return fits


def _fold_layer(sweep: Sweep, how: Repair) -> Solution:
    """The dense model to the end of the gap; the student through the layer before it, with its new matrix."""
    write = mlp_of(sweep.decoder, sweep.layer, sweep.parameter)
    for number, _, calls in sweep.batches():
        sweep.dense(number, calls)
    solution = fold(*sums(sweep, write, None), write.own) if how == "fold" else _turn(sweep, write.own)
    sweep.leave_layer(sweep.move(write.matrix, write.own, solution.change))
    sweep.up()
    return solution


def _turn(sweep: Sweep, own: Tensor) -> Solution:
    """ReplaceMe's map for directions; both models are at the end of the gap, the student's layer not repaired."""
    of_held = [held for _, held, _, _ in runs(sweep)]

    def tokens(held: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number, of_this in enumerate(of_held):
            if of_this == held:
                parts = (sweep.get(what, number).float().flatten(0, -2) for what in ("inputs", "out", "dense"))
                inputs, out, target = parts
                yield inputs @ own, out, target

    found, before, after = cosine_map(lambda: tokens(held=False), lambda: tokens(held=True), own.shape[1])
    return Solution(exact(own @ found - own), None, before, after)
