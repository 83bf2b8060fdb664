"""What the loss would be without one more layer, for every layer, and nothing run that was run before."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.lent_states import LentStore
from lowrise.observe.passes import through
from lowrise.progress import Bar


class Trials:
    """The dense model's layers without those removed so far; the model itself is not changed.

    A trial without layer l begins at the stored input of l. It leaves behind its state at the layer that is best to
    remove so far; trials go from the last layer down, so the one that wins the round has had all trials below it leave
    their state at it, and the next round's begin there. Every layer is called as in the whole model: one of another
    kind keeps its own mask and positions. Stored states lie on disk: two a layer, of all windows.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, windows: Windows, store: ActivationStore) -> None:
        self._decoder, self._store = decoder, store
        self._batches = list(windows.batches(decoder.batch_tokens))
        self._positions, self._skipped = windows.targets, windows.skipped
        self._student = Student(decoder)
        self._ahead: dict[int, int] = {}  # trial of a layer → the layer that its stored state enters
        total = 0.0

        def keep(batch: int, layer: int, h: Tensor) -> None:
            if layer < len(decoder):
                store.put((batch, layer), h)

        lent = self._lent("student")
        for _, ids, h in through(decoder, self._batches, self.layers, self._student.step, told=keep, lent=lent):
            total += self._student.batch_loss(h, ids, self._skipped)
        self.dense_loss = total / self._positions

    @property
    def layers(self) -> list[int]:
        """Those that are left."""
        return self._student.layers

    @torch.no_grad()
    def losses(self, bar: Bar, note: str, may_go: Collection[int]) -> dict[int, float]:
        """Mean next-token cross-entropy (natural log) without each of the layers that may go, by layer."""
        found: dict[int, float] = {}
        best: int | None = None
        for layer in sorted(may_go, reverse=True):
            total = self._trial(layer, best)
            bar.advance(self._positions, note)
            found[layer] = total / self._positions
            if best is not None and self._ahead.get(layer, layer) <= best:
                self._ahead[layer] = best
            if found[layer] <= (math.inf if best is None else found[best]):
                best = layer
        return found

    @torch.no_grad()
    def remove(self, gone: int) -> None:
        """Layer `gone` is left out from now on. The inputs of layers above it are made anew."""
        self._student = self._student.without([gone])
        self._ahead = {layer: at for layer, at in self._ahead.items() if layer < gone and at <= gone}
        above = [layer for layer in self.layers if layer > gone]
        if not above:
            return

        def begin(batch: int) -> Tensor:
            return self._store.get((batch, gone))

        def keep(batch: int, layer: int, h: Tensor) -> None:
            self._store.put((batch, layer), h)

        for _ in through(
            self._decoder, self._batches, above[:-1], self._student.step, begin, keep, above[-1], self._lent("student")
        ):
            pass

    def _lent(self, run: Hashable, start: int = 0) -> LentStore:
        """Of a run that parts from the student at layer `start`."""
        return LentStore(self._decoder, self._store, lambda layer: "student" if layer < start else run)

    def _trial(self, without: int, best: int | None) -> float:
        """Summed loss of all batches. best: the layer before which to leave states behind, if it is passed."""
        trial = self._student.without([without])
        parts = trial.first_difference(self._student)
        start = self._ahead.get(without, parts)
        behind = ("ahead",) if without in self._ahead else ()

        def keep(batch: int, layer: int, h: Tensor) -> None:
            if layer == best:
                self._store.put((batch, without, "ahead"), h)

        def begin(batch: int) -> Tensor:
            return self._store.get((batch, without, *behind))

        total = 0.0
        layers = [layer for layer in trial.layers if layer >= start]
        lent = self._lent(("ahead", without), parts)
        for _, ids, h in through(self._decoder, self._batches, layers, trial.step, begin, keep, lent=lent):
            total += trial.batch_loss(h, ids, self._skipped)
        return total
