"""The model that a search has in hand: the original's layers and mixes of them, with the inputs of each kept.

Nothing of the model is changed or copied. A merged layer is its first layer called with mixed parameters, which are
made for the call. A trial begins at the stored input of the layer it changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.calibration.sentences import Sentences
from lowrise.edit.merge import Mix, MixedParameters, mix_of
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.lending import Lent, going_on, lent_in
from lowrise.model.same_architecture import layer_groups
from lowrise.observe.representation import flattened_cosine, per_token_cosine
from lowrise.settings import MergeSearch


@dataclass(frozen=True)
class Trial:
    """Layers `layer`..`layer + count - 1` of the current model merged, not yet accepted.

    similarity: to the dense model's representation. final: the h[L] that it leads to; None where only the similarity
    is known.
    """

    layer: int
    count: int
    mix: Mix
    similarity: float
    final: Tensor | None


class Stack:
    """Starts as the dense model; `accept` makes a trial the current model.

    Memory beyond the model: the dense representation and h[L], one stored input a layer and, in a trial, one merged
    layer. Inputs that an accepted merge makes void are dropped, and made anew only if a later trial begins there:
    Algorithm 1, which goes down, never asks for them.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, sentences: Sentences, settings: MergeSearch) -> None:
        self._decoder, self._ids, self._settings = decoder, sentences.ids.to(decoder.device), settings
        self._mask, self._skipped = sentences.mask.to(decoder.device), max(0, sentences.prefix - 1)
        self._groups = layer_groups(decoder)
        self.layers = [Mix(layer) for layer in range(len(decoder))]
        self._student = Student(decoder)  # the current model: of each mix the first layer, with mixed parameters
        h, self._calls = decoder.embed(self._ids)
        # of the current model, by the original layer that it enters, and what the layers below it lent
        self._inputs: dict[int, tuple[Tensor, Lent]] = {0: (h, {})}
        self._dense, _ = self._entering(len(decoder))
        self._final = self._dense
        self._reference = self._represent(self._dense)

    def same_group(self, layer: int, count: int) -> bool:
        """Whether the current layers `layer`..`layer + count - 1` are of one kind, so that they can be merged."""
        start, stop = self.layers[layer].start, self.layers[layer + count - 1].stop
        return len(set(self._groups[start:stop])) == 1

    def gone_with(self, layer: int, count: int) -> set[int]:
        """Of the original's layers, those that are gone once the current `layer`..`layer + count - 1` are merged."""
        merged = range(self.layers[layer].start + 1, self.layers[layer + count - 1].stop)
        return {one for mix in self.layers for one in range(mix.start + 1, mix.stop)} | {*merged}

    @torch.no_grad()
    def attempt(self, layer: int, count: int, known: float | None = None) -> Trial:
        """Merge the current layers `layer`..`layer + count - 1` and run from there on; the current model stays.

        known: the similarity that it comes to; then it is run once it is accepted.
        """
        mix = mix_of(self.layers[layer : layer + count], self._settings.rule)
        if known is not None:
            return Trial(layer, count, mix, known, None)
        h = self._run(self._merged(mix))
        similar = flattened_cosine if self._settings.representation == "flattened-final" else per_token_cosine
        return Trial(layer, count, mix, similar(self._represent(h), self._reference, self._mask), h)

    def accept(self, trial: Trial) -> None:
        """Make the trial the current model. Inputs up to the merged layer's stay what they were."""
        merged = self._merged(trial.mix)
        self._final = trial.final if trial.final is not None else self._run(merged)
        self._student = merged
        self.layers[trial.layer : trial.layer + trial.count] = [trial.mix]
        self._inputs = {layer: h for layer, h in self._inputs.items() if layer <= trial.mix.start}

    def losses(self) -> tuple[float, float]:
        """Mean next-token cross-entropy (natural log) of the dense and of the current model on the sentences."""
        return self._loss(self._dense), self._loss(self._final)

    @torch.no_grad()
    def _loss(self, final: Tensor) -> float:
        total = 0.0
        for row in range(len(self._ids)):  # one at a time: they are of different lengths
            of_row = slice(row, row + 1), slice(int(self._mask[row].sum()))
            total += self._student.batch_loss(final[of_row], self._ids[of_row], self._skipped)
        return total / float(self._mask.sum() - len(self._ids) * (1 + self._skipped))

    def _merged(self, mix: Mix) -> Student:
        """The current model with `mix` in the place of its layers."""
        student = self._student.without(range(mix.start + 1, mix.stop))
        if len(mix.weights) > 1:
            student.changed[mix.start] = MixedParameters(self._decoder.layers, mix, self._settings.norms)
        return student

    @torch.no_grad()
    def _run(self, trial: Student) -> Tensor:
        """h[L] of a trial, from the stored input on of the first layer that is not the current model's."""
        start = trial.first_difference(self._student)
        h, lent = self._entering(start)
        return trial.run(h, going_on(self._calls, lambda: lent), start)

    def _entering(self, layer: int) -> tuple[Tensor, Lent]:
        """What enters original layer `layer` of the current model (what leaves the last one, if L), from the highest
        stored input below it on; and what layers below it lent.
        """
        if layer not in self._inputs:
            start = max(one for one in self._inputs if one < layer)
            first, below = self._inputs[start]
            calls = going_on(self._calls, lambda: below)
            for at, h in self._student.states(first, calls, start):
                self._inputs[at] = h, below if at == start else lent_in(calls)
                if at == layer:
                    break
        return self._inputs[layer]

    def _represent(self, h: Tensor) -> Tensor:
        return h if self._settings.representation == "per-token" else self._decoder.final_norm(h, self._ids)
