"""What the loss would be without one more layer, for every layer, and nothing run that was run before."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import islice

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.observe.activation_store import ActivationStore
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
        for batch, ids in enumerate(self._batches):
            for layer, h in self._student.states(*decoder.embed(ids)):
                if layer < len(decoder):
                    store.put((batch, layer), h)
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
            total = 0.0
            for batch, ids in enumerate(self._batches):
                total += self._trial(batch, ids, layer, best)
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
        above = sum(layer > gone for layer in self.layers)
        for batch, ids in enumerate(self._batches):
            for layer, h in islice(self._student.states(*self._begin(ids, (batch, gone)), gone), above):
                self._store.put((batch, layer), h)

    def _trial(self, batch: int, ids: Tensor, without: int, best: int | None) -> float:
        """Summed loss of one batch. best: the layer before which to leave the state behind, if it is passed."""
        trial, ahead = self._student.without([without]), (batch, without, "ahead")
        start = self._ahead.get(without, trial.first_difference(self._student))
        begun = self._begin(ids, ahead if without in self._ahead else (batch, without))
        for layer, h in trial.states(*begun, start):
            if layer == best:
                self._store.put(ahead, h)
        return trial.batch_loss(h, ids, self._skipped)

    def _begin(self, ids: Tensor, key: tuple[int | str, ...]) -> tuple[Tensor, list[LayerArguments]]:
        """A stored state of the batch, and how its layers are called."""
        h, calls = self._decoder.embed(ids)
        return self._store.get(key).to(h.device), calls
