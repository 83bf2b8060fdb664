"""Closed-form repair of the layers before the gaps of a cut, from the bottom up, in one pass over the tokens.

Let layer i be the last kept one before a gap [i + 1, stop). Its `down_proj` W is solved anew on the inputs A that it
has in the student, the layers below being repaired already, so that what leaves layer i meets h[stop] of the dense
model. With out = what leaves layer i now and E = h[stop] - out, the change X of W is

    argmin ‖A·X - E‖² + λ·m·‖X‖²        m = mean diag(AᵀA)

the ridge regression toward W. ReplaceMe (arXiv 2505.02819) is the special case W·(1 + Y) with a (d, d) matrix Y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.cosine_map import cosine_map
from lowrise.edit.gram import Gram, Solution, fold, solve
from lowrise.edit.student import Student
from lowrise.model.decoder import Call
from lowrise.model.writes import Write, captured, mlp_write
from lowrise.observe.shelf import Shelf
from lowrise.observe.stream import BATCH_TOKENS
from lowrise.progress import Reporter
from lowrise.recipe import Repair


@dataclass(frozen=True)
class Fit:
    """What was solved at `layer` to meet h[stop]. ridge: λ taken.

    before, after: mean ‖E‖² a held-out token; of `fold-cosine` the mean 1 - cos.
    """

    layer: int
    stop: int
    ridge: float | None
    before: float
    after: float


def gaps(student: Student) -> list[tuple[int, int]]:
    """(layer, stop): the layers whose output the next one does not expect, from the bottom up.

    A gap at the very bottom has no layer before it and is not among them.
    """
    found = [(layer, student.following(layer)) for layer in student.layers]
    return [(layer, stop) for layer, stop in found if stop != layer + 1]


@torch.no_grad()
def repair(student: Student, windows: Windows, held_out: int, how: Repair, report: Reporter) -> list[Fit]:
    """Give every layer before a gap a new matrix; they end up in `student.changed`.

    held_out: so many windows, the last ones, choose λ and are fitted by nothing. The dense model and the student go
    through the layers side by side, each layer run once by each; on disk lie one state of both and one layer's inputs
    of all tokens, in memory one batch, a few matrices of AᵀA's size and the changed matrices.
    Raises ModelError for a family whose matrix no closed form solves for.
    """
    todo = gaps(student)
    if not todo:
        return []
    writes = {layer: mlp_write(student.decoder, layer) for layer, _ in todo}  # refuses before anything is run
    with Shelf() as shelf, report.bar("repairing", len(student.layers)) as bar:
        sweep = _Sweep(student, windows, held_out, shelf, start=todo[0][0])
        fits = []
        for layer in student.layers:
            if layer > todo[-1][0]:
                break
            if layer >= sweep.at:
                if layer in writes:
                    fits.append(sweep.solve(layer, writes[layer], how))
                else:
                    sweep.pass_on(layer)
            bar.advance(windows.tokens, f"layer {layer}")
    return fits


class _Sweep:
    """Dense model and student, both at the entry of student layer `at`."""

    def __init__(self, student: Student, windows: Windows, held_out: int, shelf: Shelf, start: int) -> None:
        self._student, self._shelf, self.at = student, shelf, start
        self._decoder = student.decoder
        kept = len(windows) - held_out
        parts = [(windows.ids[:kept], False), (windows.ids[kept:], True)]
        size = max(1, BATCH_TOKENS // windows.length)
        self._batches = [(ids, held) for rows, held in parts if len(rows) for ids in rows.split(size)]
        for number, (ids, _) in enumerate(self._batches):
            h, calls = self._decoder.enter(ids)
            for layer in range(start):  # below the first gap student and dense model are one
                h = self._decoder.step(layer, h, calls)
            shelf.put(("dense", number), h)
            shelf.put(("student", number), h)

    def pass_on(self, layer: int) -> None:
        """Both through a layer that stays as it is."""
        stop = self._student.following(layer)
        for number, (ids, _) in enumerate(self._batches):
            calls = self._decoder.enter(ids)[1]
            self._dense(number, layer, stop, calls)
            self._shelf.put(("student", number), self._student.step(layer, self._get("student", number), calls))
        self.at = stop

    def solve(self, layer: int, write: Write, how: Repair) -> Fit:
        """The dense model to the end of the gap; the student through `layer` with its new matrix."""
        stop = self._student.following(layer)
        own = write.matrix(self._student.parameter(layer, write.parameter)).float()
        fit, held_out = (Gram(own) for _ in range(2))
        for number, (ids, held) in enumerate(self._batches):
            calls = self._decoder.enter(ids)[1]
            target = self._dense(number, layer, stop, calls)
            with captured(write.module) as inputs:
                out = self._student.step(layer, self._get("student", number), calls)
            if how != "fold-cosine":
                (held_out if held else fit).add(inputs[0], target.float() - out.float())
            self._shelf.put(("student", number), out)
            self._shelf.put(("inputs", number), inputs[0].view(*out.shape[:-1], -1))
        if how == "fold-cosine":
            solution = self._turn(own)
        else:
            solution = solve(fit, held_out) if how == "refit" else fold(fit, held_out, own)
        weight, change = write.moved(own, solution.change, self._decoder.dtype)
        self._student.changed.setdefault(layer, {})[write.parameter] = weight
        for number in range(len(self._batches)):
            out = self._get("student", number) + (self._get("inputs", number).float() @ change).to(self._decoder.dtype)
            self._shelf.put(("student", number), out)
        self.at = stop
        return Fit(layer, stop, solution.ridge, solution.before, solution.after)

    def _turn(self, own: Tensor) -> Solution:
        """ReplaceMe's map for directions; both models are at the end of the gap, the student's layer not repaired."""

        def tokens(held: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for number, (_, of_held) in enumerate(self._batches):
                if of_held == held:
                    parts = (self._get(what, number).float().flatten(0, -2) for what in ("inputs", "student", "dense"))
                    inputs, out, target = parts
                    yield inputs @ own, out, target

        found, before, after = cosine_map(lambda: tokens(held=False), lambda: tokens(held=True), own.shape[1])
        return Solution((own @ found - own).double(), None, before, after)

    def _dense(self, number: int, layer: int, stop: int, calls: list[Call]) -> Tensor:
        """The dense model's h[stop] of a batch, from its h[layer]."""
        h = self._get("dense", number)
        for one in range(layer, stop):
            h = self._decoder.step(one, h, calls)
        self._shelf.put(("dense", number), h)
        return h

    def _get(self, what: str, number: int) -> Tensor:
        return self._shelf.get((what, number)).to(self._decoder.device)
