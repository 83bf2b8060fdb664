"""A refit on the tokens of a search, of which only what it would be worth is kept: the dense model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowrise.edit.layerwise_pass import LayerContext, LayerwisePass
from lowrise.edit.refit import refit_layer
from lowrise.edit.student import Student
from lowrise.heap import BETWEEN_STEPS, give_back
from lowrise.model.refittable import refit_support
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.lent_states import LentStore


class DryRun(LayerwisePass):
    """A layerwise pass that forgets what it changed in a layer once both models are behind it.

    start: the lowest layer before a gap; entering: the dense model's h[start] of a batch, by number; lent: what layers
    below lent on the way there, and the batches' numbers in it; batches: as of `LayerContext`. Disk and memory as of
    `edit/repair.repair`; the decoder's parameters stay as they are. Two epochs of block reconstruction do most of what
    six do, and tell cuts apart.
    """

    most_epochs = 2

    def __init__(
        self,
        student: Student,
        store: ActivationStore,
        start: int,
        batches: list[tuple[Tensor, bool]],
        entering: Callable[[int], Tensor],
        lent: tuple[LentStore, Sequence[int]],
    ) -> None:
        # not LayerwisePass's: the way up to `start` has been gone already
        LayerContext.__init__(self, student, store, start, batches)
        for number in range(len(batches)):
            h = entering(number)
            self.put("student", number, h)
            self.put("dense", number, h)
            for own in (self._lent, self._lent_by_dense):
                own.take(number, start, lent[0], lent[1][number])

    def advance(self) -> None:
        self.student.changed.pop(self.layer, None)
        self.layer = self.stop
        give_back(BETWEEN_STEPS)

    @torch.no_grad()
    def repair(self, passed: Callable[[int], None]) -> None:
        """Every layer from `start` on, as by refit; "student" is then the state before the final norm.

        passed: told every layer that is repaired.
        """
        writes = refit_support(self.decoder)
        while self.layer < len(self.decoder):
            passed(refit_layer(self, writes).layer)
