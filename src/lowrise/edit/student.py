"""The model that a cut would leave, run without cutting: layers left out, parameters exchanged, nothing copied."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.merge import Mix, MixedParameters, check_alike
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.observe.loss import next_token_loss
from lowrise.observe.passes import through
from lowrise.plan import Drop, Merge, Replace


class Student:
    """The dense decoder's `layers`, in order, all of them by default; layers keep the dense model's numbers.

    changed: by layer, parameters that stand in for the layer's own, by path. Every layer is called as in the dense
    model. Memory beyond the model: what is in `changed`.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: list[int] | None = None,
        changed: dict[int, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.decoder = decoder
        self.layers = layers if layers is not None else list(range(len(decoder)))
        self.changed = changed if changed is not None else {}

    # -- what it is -------------------------------------------------------------------------------------------

    def without(self, gone: Collection[int]) -> Student:
        """Another student, which lacks the layers in `gone` too. What changes in one of the two is the other's not."""
        left = [layer for layer in self.layers if layer not in gone]
        return Student(self.decoder, left, {layer: own for layer, own in self.changed.items() if layer not in gone})

    def first_difference(self, other: Student) -> int:
        """The lowest layer that the two do not share; L where there is none.

        Up to its entry the states of both are the same: from there on one is run where the other's are stored.
        """

        def facts(student: Student, layer: int) -> tuple[bool, Mapping[str, Tensor] | None]:
            return layer in student.layers, student.changed.get(layer)

        for layer in range(len(self.decoder)):
            (here, own), (there, others) = facts(self, layer), facts(other, layer)
            if here != there or own is not others:
                return layer
        return len(self.decoder)

    def following(self, layer: int) -> int:
        """The layer that reads what `layer` writes; L after the last one."""
        above = [other for other in self.layers if other > layer]
        return above[0] if above else len(self.decoder)

    def parameter(self, layer: int, name: str) -> Tensor:
        """A parameter as it is here."""
        own = self.changed.get(layer, {}).get(name)
        return (own if own is not None else self.decoder.layers[layer].get_parameter(name)).detach()

    # -- running it -------------------------------------------------------------------------------------------

    def step(self, layer: int, h: Tensor, calls: list[LayerArguments]) -> Tensor:
        """What enters `layer` → what leaves it, (batch, tokens, hidden)."""
        return self.decoder.step(layer, h, calls, self.changed.get(layer))

    def states(self, h: Tensor, calls: list[LayerArguments], start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """(l, what enters l) for its layers from `start` on, one at a time, at last (L, what leaves the last one).

        h: what enters the first of them, (batch, tokens, hidden). calls: as of `Decoder.embed`.
        """
        for layer in self.layers:
            if layer >= start:
                yield layer, h
                h = self.step(layer, h, calls)
        yield len(self.decoder), h

    def run(self, h: Tensor, calls: list[LayerArguments], start: int = 0) -> Tensor:
        """What leaves the last layer; arguments as of `states`."""
        for _, state in self.states(h, calls, start):
            h = state
        return h

    def batch_loss(self, h: Tensor, ids: Tensor, skipped: int) -> float:
        """Summed next-token cross-entropy, natural log. h: what leaves the last layer, (batch, tokens, hidden).

        skipped: positions at the front that predict nothing.
        """
        return next_token_loss(self.decoder, h[:, skipped:], ids[:, skipped:])

    @torch.no_grad()
    def loss(self, windows: Windows) -> float:
        """Mean next-token cross-entropy, natural log."""
        total = 0.0
        batches = [*windows.batches(self.decoder.batch_tokens)]
        for _, ids, h in through(self.decoder, batches, self.layers, self.step):
            total += self.batch_loss(h, ids, windows.skipped)
        return total / windows.targets

    # -- changing it ------------------------------------------------------------------------------------------

    def change(self, layer: int, name: str, value: Tensor) -> None:
        """A new parameter, as the layer stores it, in place of the layer's own."""
        self.changed[layer] = {**self.changed.get(layer, {}), name: value}

    @torch.no_grad()
    def commit(self, layer: int) -> None:
        """Put what is changed in `layer` into the decoder's own layer, in place: the dense one is no more."""
        for name, value in self.changed.pop(layer, {}).items():
            self.decoder.layers[layer].get_parameter(name).copy_(value)


def student_of(decoder: Decoder, edits: Sequence[Drop | Merge]) -> Student:
    """The student that `edits` make of the dense decoder, not repaired. A merged layer costs one layer of memory.

    Raises PlanError where a merge is of layers of different kinds.
    """
    merges = [edit for edit in edits if isinstance(edit, Merge)]
    for edit in merges:
        check_alike(decoder, edit)
    mixed = [(edit, Mix(edit.start, tuple(edit.weights))) for edit in merges]
    changed: dict[int, Mapping[str, Tensor]] = {
        edit.start: {
            name: decoder.store.keep(value) for name, value in MixedParameters(decoder.layers, mix, edit.norms).items()
        }
        for edit, mix in mixed
    }
    return Student(decoder, layers_left(len(decoder), edits), changed)


def layers_left(layers: int, edits: Sequence[Drop | Merge | Replace]) -> list[int]:
    """Of the dense model's `layers` those that stand after `edits` as decoder layers, merged and replaced ones by the
    first of each.
    """
    gone = set[int]()
    for edit in edits:
        stands = not isinstance(edit, Drop) and not (isinstance(edit, Replace) and not edit.in_a_layer)
        gone |= {*range(edit.start + stands, edit.stop)}
    return [layer for layer in range(layers) if layer not in gone]
