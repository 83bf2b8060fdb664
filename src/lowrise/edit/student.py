"""The model that a cut would leave, run without cutting: layers left out, matrices exchanged, nothing copied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.merge import Mix, check_alike, mixed_parameters
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.observe.loss import next_token_loss
from lowrise.plan import Drop, Merge, Replace


class Student:
    """The dense decoder's `layers`, in order; `changed` holds parameters that stand in for a layer's own, by its name.

    Every layer is called as in the dense model. Memory beyond the model: what is in `changed`.
    """

    def __init__(
        self, decoder: Decoder, layers: list[int], changed: dict[int, dict[str, Tensor]] | None = None
    ) -> None:
        self.decoder, self.layers = decoder, layers
        self.changed = changed if changed is not None else {}

    def step(self, layer: int, h: Tensor, calls: list[LayerArguments]) -> Tensor:
        """What enters the original layer `layer` → what leaves it, (batch, tokens, hidden)."""
        return self.decoder.step(layer, h, calls, self.changed.get(layer))

    def parameter(self, layer: int, name: str) -> Tensor:
        """A parameter as it is here."""
        own = self.changed.get(layer, {}).get(name)
        return (own if own is not None else self.decoder.layers[layer].get_parameter(name)).detach()

    def following(self, layer: int) -> int:
        """The original layer that reads what `layer` writes; L after the last one."""
        above = [other for other in self.layers if other > layer]
        return above[0] if above else len(self.decoder)

    @torch.no_grad()
    def loss(self, windows: Windows) -> float:
        """Mean next-token cross-entropy, natural log."""
        total = 0.0
        for ids in windows.batches(self.decoder.batch_tokens):
            h, calls = self.decoder.embed(ids)
            for layer in self.layers:
                h = self.step(layer, h, calls)
            total += next_token_loss(self.decoder, h[:, windows.skipped :], ids[:, windows.skipped :])
        return total / windows.targets

    def change(self, layer: int, name: str, value: Tensor) -> None:
        """A new parameter, as the layer stores it, in place of the layer's own."""
        self.changed.setdefault(layer, {})[name] = value

    @torch.no_grad()
    def commit(self, layer: int) -> None:
        """Put what is changed in `layer` into the decoder's own layer, in place: the dense one is no more."""
        for name, value in self.changed.pop(layer, {}).items():
            self.decoder.layers[layer].get_parameter(name).copy_(value)


def student_of(decoder: Decoder, edits: Sequence[Drop | Merge]) -> Student:
    """The student that `edits` make of the dense decoder, not repaired. A merged layer costs one layer of memory.

    Raises PlanError where a merge is of layers of different kinds.
    """
    for edit in edits:
        if isinstance(edit, Merge):
            check_alike(decoder, edit)
    changed = {
        edit.start: mixed_parameters(decoder.layers, Mix(edit.start, tuple(edit.weights)), edit.norms)
        for edit in edits
        if isinstance(edit, Merge)
    }
    return Student(decoder, layers_left(decoder, edits), changed)


def layers_left(decoder: Decoder, edits: Sequence[Drop | Merge | Replace]) -> list[int]:
    """Of the dense decoder's layers those that stand after `edits`, merged and replaced ones by the first of each."""
    gone = {layer for edit in edits for layer in range(edit.start + edit.put_back, edit.stop)}
    return [layer for layer in range(len(decoder)) if layer not in gone]
