"""A refit on the tokens of a search, of which only what it would be worth is kept: the dense model stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrise.edit.refit import lenders_of, refit_layer
from lowrise.edit.student import Student
from lowrise.edit.sweep import Site, Sweep
from lowrise.model.refittable import check_refit
from lowrise.observe.divergence import Likely, loss_and_divergence
from lowrise.observe.shelf import Shelf


class _Rehearsal(Sweep):
    """A sweep that forgets what it changed in a layer once both models are behind it.

    entering: the dense model's h[start] of a batch, by number; batches: as of `Site`.
    """

    def __init__(
        self,
        student: Student,
        shelf: Shelf,
        start: int,
        batches: list[tuple[Tensor, bool]],
        entering: Callable[[int], Tensor],
    ) -> None:
        Site.__init__(self, student, shelf, start, batches)  # not Sweep's: the way up to `start` has been gone already
        for number in range(len(batches)):
            h = entering(number)
            self.put("student", number, h)
            self.put("dense", number, h)

    def up(self) -> None:
        self.student.changed.pop(self.layer, None)
        self.layer = self.stop


@torch.no_grad()
def rehearse(
    student: Student,
    start: int,
    batches: list[tuple[Tensor, bool]],
    entering: Callable[[int], Tensor],
    likely_tokens: dict[int, Likely],
    passed: Callable[[int], None],
) -> tuple[float, float]:
    """Summed held-out loss and divergence of `student`, nothing of it changed yet, once it is repaired by refit.

    start: its lowest layer before a gap; batches: token ids, and whether they are held out; entering: the dense model's
    h[start] of a batch, by number; likely_tokens: of the held-out batches; passed: told every layer that is repaired.
    Disk and memory as of `edit/repair.repair`; the decoder's parameters stay as they are.
    """
    decoder = student.decoder
    writes = check_refit(decoder)
    loss = divergence = 0.0
    with Shelf() as shelf:
        sweep = _Rehearsal(student, shelf, start, batches, entering)
        while sweep.layer < len(decoder):
            passed(refit_layer(sweep, writes, lenders_of(sweep) if writes else []).layer)
        for number, likely_here in likely_tokens.items():
            more = loss_and_divergence(decoder, sweep.get("student", number), batches[number][0], likely_here)
            loss, divergence = loss + more[0], divergence + more[1]
    return loss, divergence
