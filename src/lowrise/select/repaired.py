"""refit's searches: one layer after the other, or the one span, always what the REPAIRED model misses least.

A similarity says how much a layer writes, not whether the others can be made to write it. So a trial here takes the
layer out, lets the layer before it take over neurons of that one (`edit/neurons.py`) and write what meets the dense
model's state behind the gap, and asks how far the next-token distributions on held-out tokens are from the dense
model's. Of the repair's other steps a trial makes none; of a span's it makes the write alone.
"""

from __future__ import annotations

import itertools
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.neurons import take_over
from lowrise.edit.student import Student
from lowrise.edit.sweep import Site, batches_of
from lowrise.edit.writing import refit_write
from lowrise.model.alike import same_neurons
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured, reads
from lowrise.model.neurons import neurons_apart
from lowrise.model.refittable import check_refit
from lowrise.observe.divergence import Likely, likely, loss_and_divergence
from lowrise.observe.shelf import Shelf
from lowrise.progress import Bar, Reporter
from lowrise.select.choice import Choice, choice_of_rounds, lowest, round_of

# What an effort of 1 spends. A layer that was among the worst in one round is not the best of the next.
FIT_TOKENS = 12_288
HELD_OUT_TOKENS = 2_048
LENGTH = 512  # tokens of a window at most
RIDGES = (1e-2, 1e-1, 1.0)  # λ of a trial: what full repairs take before gaps lies between 0.03 and 1
SHORTLIST = 6  # trials a round, of those that added least when tried last: first of all each is, without moving neurons


def choose_repaired(
    decoder: Decoder, windows: Windows, held_out: Windows, k: int, effort: int, report: Reporter
) -> Choice:
    """k layers, never the first, each chosen on the model that the ones before left, repaired. Changes nothing.

    windows: fitted, the first 12,288·effort tokens of them; held_out: decides, the first 2,048·effort. Divergences and
    losses are means over positions, natural log. On disk lie the dense model's states of these tokens, what its MLPs
    are given, and at most one changed MLP a layer; in memory one batch, the sums of one trial (`edit/neurons.py`), one
    changed MLP a gap, and the dense model's likeliest tokens at the deciding positions. Where `check_refit` finds that
    writes cannot be solved, trials are drops.
    """
    fitted, deciding = _spent(windows, held_out, effort)
    tries = [min(len(decoder) - 1 - done, SHORTLIST * effort) for done in range(k)]
    rounds: list[dict[str, Any]] = []
    with Shelf() as shelf, report.bar("searching", len(decoder) - 1 + sum(tries)) as bar:
        search = _Search(decoder, fitted, deciding, shelf)
        looked = search.trials(list(range(1, len(decoder))), bar, moves=False)
        known = {layer: trial.divergence for layer, trial in looked.items()}  # what each added when it was tried last
        reached = 0.0
        for _ in range(k):
            trials = search.trials(sorted(lowest(known, SHORTLIST * effort, known)), bar)
            divergences = {layer: trial.divergence for layer, trial in trials.items()}
            (gone,) = lowest(divergences, 1, divergences)
            search.remove(gone, trials[gone])
            losses = {layer: trial.loss for layer, trial in trials.items()}
            all_divergences = [divergences.get(layer) for layer in range(len(decoder))]
            rounds.append({**round_of(gone, losses, len(decoder)), "divergences": all_divergences})
            known |= {layer: divergence - reached for layer, divergence in divergences.items()}
            reached += known.pop(gone)
    choice = choice_of_rounds("repaired", search.dense_loss, rounds)
    choice.scores["tokens"] = {"fitted": fitted.tokens, "held_out": deciding.tokens}
    return choice


def choose_repaired_span(
    decoder: Decoder, windows: Windows, held_out: Windows, k: int, effort: int, report: Reporter
) -> Choice:
    """The span of k layers, without the first, that the layer before it bridges best. Changes nothing.

    Tokens and numbers as of `choose_repaired`, and trials are drops where they are there. On disk lie the dense model's
    states; in memory one batch, two matrices' sums, one changed matrix, and the dense model's likeliest tokens at the
    deciding positions.
    """
    fitted, deciding = _spent(windows, held_out, effort)
    starts = range(1, len(decoder) - k + 1)
    losses: dict[int, float] = {}
    divergences: dict[int, float] = {}
    with Shelf() as shelf, report.bar("searching", len(starts)) as bar:
        search = _Search(decoder, fitted, deciding, shelf, moves=False)
        for start in starts:
            losses[start], divergences[start] = search.span(start, start + k)
            bar.advance(fitted.tokens, f"divergence {min(divergences.values()):.3f}")
    (best,) = lowest(divergences, 1, starts)
    scores = {
        "criterion": "repaired-span",
        "span": k,
        "bridged": search.writes,
        "divergences": [None, *divergences.values()],
        "losses": [None, *losses.values()],
        "loss": {"dense": search.dense_loss, "after": losses[best]},
        "tokens": {"fitted": fitted.tokens, "held_out": deciding.tokens},
    }
    return Choice([(best, best + k)], scores)


def _spent(windows: Windows, held_out: Windows, effort: int) -> tuple[Windows, Windows]:
    """What is fitted and what decides: of as many documents as can be; before any text, of what the model wrote.

    So few tokens of a text are of its domain, and layers chosen on them are what that domain needs least.
    """
    windows, held_out = (one.written_first().pieces(LENGTH) for one in (windows, held_out))
    fitted = windows.first(max(1, FIT_TOKENS * effort // windows.length))
    return fitted, held_out.first(max(1, HELD_OUT_TOKENS * effort // windows.length))


@dataclass(frozen=True)
class _Trial:
    """One layer out. changed: parameters of the layer `before` it; loss, divergence: held-out, of the two together."""

    before: int
    changed: dict[str, Tensor]
    loss: float
    divergence: float


class _Place(Site):
    """Where a layer is tried to be left out: the search's shelf holds all states of the dense model."""

    def target(self, number: int) -> Tensor:
        return self.get(("dense", self.stop), number)

    def enter_as_dense(self) -> None:
        """Nothing is changed below: what enters the layer is what enters the dense model's."""
        for number in range(len(self._batches)):
            self.put("student", number, self.get(("dense", self.layer), number))

    def distance(self, likely_tokens: dict[int, Likely]) -> tuple[float, float]:
        """Summed loss and divergence of the held-out batches that go on through this layer and those above."""
        loss = divergence = 0.0
        for number, likely_here in likely_tokens.items():
            ids = self._batches[number][0]
            h, calls = self.get("student", number), self.decoder.enter(ids)[1]
            for layer in self.student.layers:
                if layer >= self.layer:
                    h = self.student.step(layer, h, calls)
            more = loss_and_divergence(self.decoder, h, ids, likely_here)
            loss, divergence = loss + more[0], divergence + more[1]
        return loss, divergence


class _Search:
    """The student so far. On the shelf lies, of every batch, the dense model's h[0..L] and what its MLPs are given; and
    what trials solved, as long as the same trial would solve the same. moves: neurons may; without, what MLPs are given
    is not kept. writes: whether trials solve what a layer writes, or are drops.
    """

    @torch.no_grad()
    def __init__(
        self, decoder: Decoder, fitted: Windows, deciding: Windows, shelf: Shelf, *, moves: bool = True
    ) -> None:
        self._decoder, self._shelf = decoder, shelf
        self._student = Student(decoder, list(range(len(decoder))))
        self.writes = check_refit(decoder)
        self._adopts = moves and self.writes and neurons_apart(decoder)
        self._batches = batches_of(fitted, deciding, decoder.batch_tokens, mixed=True)
        self._positions = sum(ids[:, 1:].numel() for ids, held in self._batches if held)
        self._likely: dict[int, Likely] = {}
        self._solved: dict[int, tuple[str, ...]] = {}  # by layer that was tried, the names of what lies on the shelf
        total = 0.0
        for number, (ids, held) in enumerate(self._batches):
            h = self._keep_dense(number, ids)
            if held:
                self._likely[number], loss = likely(decoder, h, ids)
                total += loss
        self.dense_loss = total / self._positions

    @torch.no_grad()
    def trials(self, candidates: list[int], bar: Bar, *, moves: bool = True) -> dict[int, _Trial]:
        """By layer that is tried; parameters are kept of the best alone. moves: neurons may.

        One pass through the student, from its first change up: a trial begins at the state that enters the layer before
        the one that goes.
        """
        trials: dict[int, _Trial] = {}
        layers = self._student.layers
        last, best = max(layers.index(one) for one in candidates), math.inf
        dense = min(self._student.changed, default=len(self._decoder))  # up to its entry the student is the dense model
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
                bar.advance(self._positions, f"divergence {best:.3f}")
            if layer >= dense and following != layers[last]:
                place.carry()
        return trials

    @torch.no_grad()
    def span(self, start: int, stop: int) -> tuple[float, float]:
        """Held-out loss and divergence of the dense model without [start, stop), when layer start - 1 writes anew."""
        left = [one for one in range(len(self._decoder)) if not start <= one < stop]
        place = self._place(start - 1, Student(self._decoder, left))
        place.enter_as_dense()
        if self.writes:
            refit_write(place, RIDGES)
        return self._missed(place)

    def remove(self, gone: int, trial: _Trial) -> None:
        """Leave layer `gone` out for good, with the repair that its trial found."""
        self._student.layers.remove(gone)
        self._student.changed.pop(gone, None)
        self._student.changed[trial.before] = trial.changed
        self._solved = {one: names for one, names in self._solved.items() if one < trial.before}

    def _place(self, layer: int, student: Student) -> _Place:
        return _Place(student, self._shelf, layer, self._batches)

    def _try(self, layer: int, gone: int, moves: bool) -> _Trial:
        """Take `gone` out and repair `layer`, the one before it, for this trial alone; the student stays before it."""
        left = [one for one in self._student.layers if one != gone]
        changed = {**self._student.changed, layer: dict(self._student.changed.get(layer, {}))}
        place = self._place(layer, Student(self._decoder, left, changed))
        adopts = self._adopts and same_neurons(self._decoder, layer, gone)
        if gone in self._solved:
            changed[layer] |= {name: place.get((layer, name), gone) for name in self._solved[gone]}
        elif self.writes:
            if not (adopts and moves and take_over(place, gone, ("mlp", gone), RIDGES)):
                refit_write(place, RIDGES)
            if moves or not adopts:  # what was solved without moving neurons is no trial's that moves them
                self._solved[gone] = tuple(changed[layer])
                for name, value in changed[layer].items():
                    place.put((layer, name), gone, value)
        return _Trial(layer, changed[layer], *self._missed(place))

    def _missed(self, place: _Place) -> tuple[float, float]:
        """Mean loss and divergence of a held-out position, by the place's student."""
        loss, divergence = place.distance(self._likely)
        return loss / self._positions, divergence / self._positions

    def _keep_dense(self, number: int, ids: Tensor) -> Tensor:
        """The dense model on a batch, all that trials will ask for put on the shelf; h[L]."""
        asked = range(len(self._decoder)) if self._adopts else ()
        with ExitStack() as stack:
            given = [stack.enter_context(captured(reads(self._decoder, layer)[1][0].module)) for layer in asked]
            for layer, h in self._decoder.states(ids):
                self._shelf.put((("dense", layer), number), h)
                if layer and self._adopts:
                    self._shelf.put((("mlp", layer - 1), number), given[layer - 1].pop().view(*h.shape[:-1], -1))
        return h
