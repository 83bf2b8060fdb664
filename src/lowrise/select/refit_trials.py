"""What a layer, or a span, would be missed once it is out and the layer before it repaired: trials on one student."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.dry_run import DryRun
from lowrise.edit.layerwise_pass import LayerContext, batches_of
from lowrise.edit.neurons import transplant
from lowrise.edit.student import Student
from lowrise.edit.writing import refit_write
from lowrise.exact import exact
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured
from lowrise.model.neurons import neurons_apart
from lowrise.model.refittable import refit_support
from lowrise.model.same_architecture import same_neurons
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.divergence import Likely, likely, loss_and_divergence
from lowrise.progress import Bar

RIDGES = (1e-2, 1e-1, 1.0)  # λ of a trial: what full repairs take before gaps lies between 0.03 and 1


@dataclass(frozen=True)
class Trial:
    """Layers out. changed: parameters of the layer `before` them; loss, divergence: held-out, of the two together."""

    before: int
    changed: Mapping[str, Tensor]
    loss: float
    divergence: float


class TrialContext(LayerContext):
    """Where a layer is tried to be left out: the search's store holds all states of the dense model."""

    @property
    def changed(self) -> Mapping[str, Tensor]:
        """The layer's parameters that are not the dense model's, by path."""
        return self.student.changed.get(self.layer, {})

    def target(self, number: int) -> Tensor:
        return self.get(("dense", self.stop), number)

    def enter_as_dense(self) -> None:
        """Nothing is changed below: what enters the layer is what enters the dense model's."""
        for number in range(len(self._batches)):
            self.put("student", number, self.get(("dense", self.layer), number))

    def leaving(self, number: int) -> Tensor:
        """What leaves the last layer, of a batch that goes on through this one and those above."""
        _, calls = self.decoder.embed(self._batches[number][0])
        return self.student.run(self.get("student", number), calls, self.layer)


class Search:
    """The student so far. In the store lies, of every batch, the dense model's h[0..L] and what its MLPs are given; and
    what trials solved, as long as the same trial would solve the same. moves: neurons may; without, what MLPs are given
    is not kept. writes: whether trials solve what a layer writes, or are drops. positions: that decide.
    """

    @torch.no_grad()
    def __init__(
        self, decoder: Decoder, fitted: Windows, deciding: Windows, store: ActivationStore, *, moves: bool = True
    ) -> None:
        self._decoder, self._store = decoder, store
        self._student = Student(decoder)
        self.writes = refit_support(decoder)
        self._transplants = moves and self.writes and neurons_apart(decoder)
        self._batches = batches_of(fitted, deciding, decoder.batch_tokens, mixed=True)
        self._skipped = deciding.skipped
        self.positions = sum(ids[:, 1 + self._skipped :].numel() for ids, held in self._batches if held)
        self._likely: dict[int, Likely] = {}
        self._solved: dict[int, tuple[str, ...]] = {}  # by layer that was tried, the names of what is stored
        total = 0.0
        for number, (ids, held) in enumerate(self._batches):
            h = self._keep_dense(number, ids)
            if held:
                self._likely[number], loss = likely(decoder, h[:, self._skipped :], ids[:, self._skipped :])
                total += loss
        self.dense_loss = total / self.positions

    @torch.no_grad()
    def trials(self, candidates: list[int], bar: Bar | None, *, moves: bool = True) -> dict[int, Trial]:
        """By layer that is tried; parameters are kept of the best alone. moves: neurons may.

        One pass through the student, from its first change up: a trial begins at the state that enters the layer before
        the one that goes.
        """
        trials: dict[int, Trial] = {}
        layers = self._student.layers
        last, best = max(layers.index(one) for one in candidates), math.inf
        dense = self._student.first_difference(Student(self._decoder))
        for layer, following in itertools.pairwise(layers[: last + 1]):
            place = self._place(layer, self._student)
            if layer <= dense and (following in candidates or layer == dense):
                place.enter_as_dense()
            if following in candidates:
                trial = self._try(layer, following, moves)
                better = trial.divergence < best
                best = min(best, trial.divergence)
                trials = {one: old if not better else replace(old, changed={}) for one, old in trials.items()}
                trials[following] = trial if better else replace(trial, changed={})
                if bar is not None:
                    bar.advance(self.positions, f"divergence {best:.3f}")
            if layer >= dense and following != layers[last]:
                place.propagate()
        return trials

    @torch.no_grad()
    def span(self, start: int, stop: int) -> Trial:
        """The dense model without [start, stop), layer start - 1 writing anew."""
        place = self._place(start - 1, Student(self._decoder).without(range(start, stop)))
        place.enter_as_dense()
        if self.writes:
            refit_write(place, RIDGES)
        return Trial(start - 1, place.changed, *self._missed(place.leaving))

    @torch.no_grad()
    def unlike(self, n: int) -> dict[int, float]:
        """By start from 1 on, how unlike the states at both ends of a span of n are: 1 - their mean held-out cosine."""
        found = {}
        for start in range(1, len(self._decoder) - n + 1):
            ends = [(self._dense(start, number), self._dense(start + n, number)) for number in self._likely]
            cosines = [torch.cosine_similarity(exact(a), exact(b), dim=-1).flatten() for a, b in ends]
            found[start] = 1 - float(torch.cat(cosines).mean())
        return found

    @torch.no_grad()
    def dry_run(self, gone: Collection[int], passed: Callable[[int], None]) -> tuple[float, float]:
        """Mean held-out loss and divergence without the layers in `gone`, all others repaired as `repair` would.

        passed: told every layer that is repaired.
        """
        student, start = Student(self._decoder).without(gone), min(gone) - 1
        with ActivationStore() as store:
            layerwise = DryRun(student, store, start, self._batches, lambda number: self._dense(start, number))
            layerwise.repair(passed)
            return self._missed(lambda number: layerwise.get("student", number))

    def again(self) -> None:
        """Back to the student that lacks nothing."""
        self._student, self._solved = Student(self._decoder), {}

    def remove(self, gone: Collection[int], trial: Trial) -> None:
        """Leave the layers in `gone` out for good, with the repair that their trial found."""
        self._student = self._student.without(gone)
        self._student.changed[trial.before] = trial.changed
        self._solved = {one: names for one, names in self._solved.items() if one < trial.before}

    def _dense(self, layer: int, number: int) -> Tensor:
        return self._store.get((("dense", layer), number)).to(self._decoder.device, non_blocking=True)

    def _place(self, layer: int, student: Student) -> TrialContext:
        return TrialContext(student, self._store, layer, self._batches)

    def _try(self, layer: int, gone: int, moves: bool) -> Trial:
        """Take `gone` out and repair `layer`, the one before it, for this trial alone; the student stays before it."""
        place = self._place(layer, self._student.without([gone]))
        donor = self._decoder.layer(gone)
        transplants = self._transplants and same_neurons(place.dense_layer, donor)
        if gone in self._solved:
            place.set_weights({name: place.get((layer, name), gone) for name in self._solved[gone]})
        elif self.writes:
            if not (transplants and moves and transplant(place, donor, ("mlp", gone), RIDGES)):
                refit_write(place, RIDGES)
            if moves or not transplants:  # what was solved without moving neurons is no trial's that moves them
                self._solved[gone] = tuple(place.changed)
                for name, value in place.changed.items():
                    place.put((layer, name), gone, value)
        return Trial(layer, place.changed, *self._missed(place.leaving))

    def _missed(self, leaving: Callable[[int], Tensor]) -> tuple[float, float]:
        """Mean loss and divergence of a held-out position. leaving: a student's last layer, a batch by its number."""
        loss = divergence = 0.0
        for number, likely_here in self._likely.items():
            h, ids = (one[:, self._skipped :] for one in (leaving(number), self._batches[number][0]))
            more = loss_and_divergence(self._decoder, h, ids, likely_here)
            loss, divergence = loss + more[0], divergence + more[1]
        return loss / self.positions, divergence / self.positions

    def _keep_dense(self, number: int, ids: Tensor) -> Tensor:
        """The dense model on a batch, all that trials will ask for stored; h[L]."""
        asked = range(len(self._decoder)) if self._transplants else ()
        with ExitStack() as stack:
            given = [stack.enter_context(captured(self._decoder.layer(layer).mlp_inputs[0].module)) for layer in asked]
            for layer, h in self._decoder.states(ids):
                self._store.put((("dense", layer), number), h)
                if layer and self._transplants:
                    self._store.put((("mlp", layer - 1), number), given[layer - 1].pop().view(*h.shape[:-1], -1))
        return h
