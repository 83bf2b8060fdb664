"""A refit on the tokens of a search, of which only what it would be worth is kept: the dense model stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrise.edit.refit import refit_layer
from lowrise.edit.student import Student
from lowrise.edit.sweep import Site, Sweep
from lowrise.model.refittable import check_refit
from lowrise.observe.shelf import Shelf


class Rehearsal(Sweep):
    """A sweep that forgets what it changed in a layer once both models are behind it.

    start: the lowest layer before a gap; entering: the dense model's h[start] of a batch, by number; batches: as of
    `Site`. Disk and memory as of `edit/repair.repair`; the decoder's parameters stay as they are.
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
    def repair(self, passed: Callable[[int], None]) -> None:
        """Every layer from `start` on, as by refit; "student" is then the state before the final norm.

        passed: told every layer that is repaired.
        """
        writes = check_refit(self.decoder)
        while self.layer < len(self.decoder):
            passed(refit_layer(self, writes).layer)
