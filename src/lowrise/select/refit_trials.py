"""What a layer, or a span, would be missed once it is out and the layer before it repaired: trials on one student."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.dry_run import DryRun
from lowrise.edit.layerwise_pass import LayerContext, batches_of
from lowrise.edit.neurons import transplant
from lowrise.edit.student import Student
from lowrise.edit.writing import refit_write
from lowrise.exact import exact
from lowrise.heap import BETWEEN_STEPS, give_back
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured
from lowrise.model.neurons import neurons_apart
from lowrise.model.refittable import refit_support
from lowrise.model.same_architecture import same_neurons
from lowrise.model.structure import known_by_name
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.divergence import Likely, likely, loss_and_divergence
from lowrise.observe.lent_states import LentStore
from lowrise.observe.passes import through
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

    def get(self, what: Hashable, number: int) -> Tensor:
        """ "student" has a place for every layer, and below the first change it is the dense model's."""
        if what == "student":
            what = ("dense" if self.layer <= self._first_change else what, self.layer)
        return super().get(what, number)

    def propagate(self) -> None:
        """What leaves the layer lies in the place of the one that reads it."""
        for number, _, calls in self.batches():
            self.put(("student", self.stop), number, self.run(number, calls)())
            self._lent.keep(number, self.layer, calls)

    def _lent_by(self, layer: int, /) -> Hashable:
        return "dense" if layer < self._first_change else "student"

    @cached_property
    def _first_change(self) -> int:
        """The lowest layer whose output is not the dense model's; nothing is changed below it."""
        return self.student.first_difference(Student(self.decoder))

    def leaving(self, numbers: list[int]) -> Iterator[tuple[int, Tensor]]:
        """(number, what leaves the last layer) of batches that go on through this one and those above."""
        batches = [self._batches[number][0] for number in numbers]
        layers = [layer for layer in self.student.layers if layer >= self.layer]

        def begin(at: int) -> Tensor:
            return self.get("student", numbers[at])

        def lent_by(layer: int) -> Hashable:
            return self._lent_by(layer) if layer < self.layer else "trial"

        lent = LentStore(self.decoder, self.store, lent_by, numbers)
        for at, _, h in through(self.decoder, batches, layers, self.student.step, begin, lent=lent):
            yield numbers[at], h


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
        self._reached = -1  # the highest layer whose entry lies in the store as it now is
        total = 0.0
        for number, ids, h in self._dense_pass():
            if self._batches[number][1]:
                self._likely[number], loss = likely(decoder, h[:, self._skipped :], ids[:, self._skipped :])
                total += loss
            give_back(BETWEEN_STEPS)  # batches are of many lengths
        self.dense_loss = total / self.positions

    @torch.no_grad()
    def trials(self, candidates: list[int], bar: Bar | None, *, moves: bool = True) -> dict[int, Trial]:
        """By layer that is tried; parameters are kept of the best alone. moves: neurons may.

        A trial begins at the state that enters the layer before the one that goes. It is computed once, from the last
        change up, and kept.
        """
        trials: dict[int, Trial] = {}
        best = math.inf
        for gone in candidates:
            layer = max(one for one in self._student.layers if one < gone)
            self._reach(layer)
            trial = self._try(layer, gone, moves)
            better = trial.divergence < best
            best = min(best, trial.divergence)
            trials = {one: old if not better else replace(old, changed={}) for one, old in trials.items()}
            trials[gone] = trial if better else replace(trial, changed={})
            give_back(BETWEEN_STEPS)
            if bar is not None:
                bar.advance(self.positions, f"divergence {best:.3f}")
        return trials

    def _reach(self, layer: int) -> None:
        """What enters `layer` lies in the store."""
        first = self._student.first_difference(Student(self._decoder))
        for below, above in itertools.pairwise(self._student.layers):
            if max(first, self._reached) <= below and above <= layer:
                self._place(below, self._student).propagate()
                self._reached = above

    @torch.no_grad()
    def span(self, start: int, stop: int) -> Trial:
        """The dense model without [start, stop), layer start - 1 writing anew."""
        place = self._place(start - 1, Student(self._decoder).without(range(start, stop)))
        if self.writes:
            refit_write(place, RIDGES)
        give_back(BETWEEN_STEPS)
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
        """Mean held-out loss and divergence without the layers in `gone`, all others repaired on every other batch.

        passed: told every layer that is repaired.
        """
        student, start = Student(self._decoder).without(gone), min(gone) - 1
        fitted = [number for number, (_, held) in enumerate(self._batches) if not held]
        numbers = [*fitted[::2], *self._likely]
        with ActivationStore(self._decoder.store.folder) as store:
            batches = [self._batches[number] for number in numbers]
            lent = self._lent_by_dense, numbers
            layerwise = DryRun(student, store, start, batches, lambda place: self._dense(start, numbers[place]), lent)
            layerwise.repair(passed)
            return self._missed(
                lambda asked: ((number, layerwise.get("student", numbers.index(number))) for number in asked)
            )

    def again(self) -> None:
        """Back to the student that lacks nothing."""
        self._student, self._solved, self._reached = Student(self._decoder), {}, -1

    def remove(self, gone: Collection[int], trial: Trial) -> None:
        """Leave the layers in `gone` out for good, with the repair that their trial found."""
        self._student = self._student.without(gone)
        self._student.changed[trial.before] = trial.changed
        self._solved = {one: names for one, names in self._solved.items() if one < trial.before}
        self._reached = min(self._reached, trial.before)

    def _dense(self, layer: int, number: int) -> Tensor:
        return self._store.get((("dense", layer), number)).to(self._decoder.device, non_blocking=True)

    @cached_property
    def _lent_by_dense(self) -> LentStore:
        return LentStore(self._decoder, self._store, lambda _: "dense")

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
            if known_by_name(self._decoder):
                place.keep_attention()
            if not (transplants and moves and transplant(place, donor, ("mlp", gone), RIDGES)):
                refit_write(place, RIDGES)
            if moves or not transplants:  # what was solved without moving neurons is no trial's that moves them
                self._solved[gone] = tuple(place.changed)
                for name, value in place.changed.items():
                    place.put((layer, name), gone, value)
        return Trial(layer, place.changed, *self._missed(place.leaving))

    def _missed(self, leaving: Callable[[list[int]], Iterable[tuple[int, Tensor]]]) -> tuple[float, float]:
        """Mean loss and divergence of a held-out position. leaving: what leaves the last layer, batches by number."""
        loss = divergence = 0.0
        for number, left in leaving([*self._likely]):
            h, ids = (one[:, self._skipped :] for one in (left, self._batches[number][0]))
            more = loss_and_divergence(self._decoder, h, ids, self._likely[number])
            loss, divergence = loss + more[0], divergence + more[1]
        return loss / self.positions, divergence / self.positions

    def _dense_pass(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The dense model on all batches, all that trials will ask for stored: (number, ids, h[L])."""
        asked = range(len(self._decoder)) if self._transplants else ()
        with ExitStack() as stack:
            given = [stack.enter_context(captured(self._decoder.layer(layer).mlp_inputs[0].module)) for layer in asked]

            def keep(number: int, layer: int, h: Tensor) -> None:
                self._store.put((("dense", layer), number), h)
                if layer and self._transplants:
                    self._store.put((("mlp", layer - 1), number), given[layer - 1].pop().view(*h.shape[:-1], -1))

            batches = [ids for ids, _ in self._batches]
            layers, lent = range(len(self._decoder)), self._lent_by_dense
            yield from through(self._decoder, batches, layers, self._decoder.step, told=keep, lent=lent)
