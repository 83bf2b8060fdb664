"""refit's search: one layer after the other, always the one that the REPAIRED model misses least.

A similarity says how much a layer writes, not whether the others can be made to write it. So a trial here takes the
layer out, gives the layer before it the matrix that meets the dense model's state behind the gap (`edit/refit.py`, the
last of its four steps), and asks how far the next-token distributions on held-out tokens are from the dense model's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.gram import solve, two_grams, weight_of
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured, check_refit, mlp_output
from lowrise.observe.divergence import Likely, likely, loss_and_divergence
from lowrise.observe.shelf import Shelf
from lowrise.observe.stream import BATCH_TOKENS
from lowrise.progress import Bar, Reporter
from lowrise.select.choice import Choice, choice_of_rounds, lowest, round_of

# What an effort of 1 spends. A layer that was among the worst in one round is not the best of the next.
FIT_TOKENS = 12_288
HELD_OUT_TOKENS = 2_048
LENGTH = 512  # tokens of a window at most
RIDGES = (1e-2, 1e-1, 1.0)  # λ of a trial: what full repairs take before gaps lies between 0.03 and 1
SHORTLIST = 12  # trials a round, of those that added least when tried last; the first round tries every layer


def choose_repaired(
    decoder: Decoder, windows: Windows, held_out: Windows, k: int, effort: int, report: Reporter
) -> Choice:
    """k layers, never the first, each chosen on the model that the ones before left, repaired. Changes nothing.

    windows: fitted, the first 12,288·effort tokens of them; held_out: decides, the first 2,048·effort. Divergences and
    losses are means over positions, natural log. On disk lie the dense model's states of these tokens, in memory one
    batch, two matrices' sums, one changed matrix a gap, and the dense model's likeliest tokens at the deciding
    positions. Where `check_refit` finds that writes cannot be solved, trials are drops.
    """
    windows, held_out = windows.pieces(LENGTH), held_out.pieces(LENGTH)  # of as many documents as can be
    fitted = windows.first(max(1, FIT_TOKENS * effort // windows.length))
    deciding = held_out.first(max(1, HELD_OUT_TOKENS * effort // windows.length))
    tries = [min(len(decoder) - 1 - done, SHORTLIST * effort if done else len(decoder)) for done in range(k)]
    rounds: list[dict[str, Any]] = []
    with Shelf() as shelf, report.bar("searching", sum(tries)) as bar:
        search = _Search(decoder, fitted, deciding, shelf)
        candidates = list(range(1, len(decoder)))
        known: dict[int, float] = {}  # of every layer that is left, what it added when it was tried last
        reached = 0.0
        for _ in range(k):
            trials = search.trials(candidates, bar)
            divergences = {layer: trial.divergence for layer, trial in trials.items()}
            (gone,) = lowest(divergences, 1, divergences)
            search.remove(gone, trials[gone])
            losses = {layer: trial.loss for layer, trial in trials.items()}
            all_divergences = [divergences.get(layer) for layer in range(len(decoder))]
            rounds.append({**round_of(gone, losses, len(decoder)), "divergences": all_divergences})
            known |= {layer: divergence - reached for layer, divergence in divergences.items()}
            reached += known.pop(gone)
            candidates = sorted(lowest(known, SHORTLIST * effort, known))
    choice = choice_of_rounds("repaired", search.dense_loss, rounds)
    choice.scores["tokens"] = {"fitted": fitted.tokens, "held_out": deciding.tokens}
    return choice


@dataclass(frozen=True)
class _Trial:
    """One layer out. weight: of the layer `before` it, as stored; loss, divergence: held-out, of the two together."""

    before: int
    weight: Tensor
    loss: float
    divergence: float


class _Search:
    """The student so far, and the dense model's h[0..L] of every batch on the shelf."""

    @torch.no_grad()
    def __init__(self, decoder: Decoder, fitted: Windows, deciding: Windows, shelf: Shelf) -> None:
        self._decoder, self._shelf = decoder, shelf
        self._student = Student(decoder, list(range(len(decoder))))
        self._writes = check_refit(decoder)
        parts = (fitted, False), (deciding, True)
        self._batches = [(ids, held) for part, held in parts for ids in part.mixed_batches(BATCH_TOKENS)]
        self._positions = sum(ids[:, 1:].numel() for ids, held in self._batches if held)
        self._likely: dict[int, Likely] = {}
        total = 0.0
        for number, (ids, held) in enumerate(self._batches):
            for layer, h in decoder.states(ids):
                shelf.put(("dense", number, layer), h)
            if held:
                self._likely[number], loss = likely(decoder, h, ids)
                total += loss
        self.dense_loss = total / self._positions

    @torch.no_grad()
    def trials(self, candidates: list[int], bar: Bar) -> dict[int, _Trial]:
        """By layer that is tried.

        One pass through the student: a trial begins at the state that enters the layer before the one that goes.
        """
        trials: dict[int, _Trial] = {}
        layers = self._student.layers
        first = min([*(layers[layers.index(one) - 1] for one in candidates), *self._student.changed])
        for number in range(len(self._batches)):  # below the first change the student is the dense model
            self._shelf.put(("student", number), self._get("dense", number, first))
        last = max(layers.index(one) for one in candidates)
        for layer, following in itertools.pairwise(layers[: last + 1]):
            if layer < first:
                continue
            if following in candidates:
                trials[following] = self._try(layer, following)
                bar.advance(self._positions, f"divergence {min(trial.divergence for trial in trials.values()):.3f}")
            else:
                for number, (ids, _) in enumerate(self._batches):
                    calls = self._decoder.enter(ids)[1]
                    out = self._student.step(layer, self._get("student", number), calls)
                    self._shelf.put(("student", number), out)
        return trials

    def remove(self, gone: int, trial: _Trial) -> None:
        """Leave layer `gone` out for good, with the repair that its trial found."""
        self._student.layers.remove(gone)
        self._student.changed.pop(gone, None)
        self._student.change(trial.before, mlp_output(self._decoder, trial.before).parameter, trial.weight)

    def _try(self, layer: int, gone: int) -> _Trial:
        """Take `gone` out and refit `layer`, the one before it. The student's states pass `layer` as it was."""
        stop, write = self._student.following(gone), mlp_output(self._decoder, layer)
        own = write.matrix(self._student.parameter(layer, write.parameter)).float()
        fit, held_out = two_grams(own.shape, own.device)
        for number, (ids, held) in enumerate(self._batches):
            calls = self._decoder.enter(ids)[1]
            with captured(write.module) as inputs:
                out = self._student.step(layer, self._get("student", number), calls)
            self._shelf.put(("student", number), out)
            target = self._get("dense", number, stop)
            if self._writes:
                (held_out if held else fit).add(inputs[0], target.float() - out.float(), weight_of(target))
            if held:
                self._shelf.put(("inputs", number), inputs[0].view(*out.shape[:-1], -1))
        solved = solve(fit, held_out, RIDGES).change if self._writes else torch.zeros_like(fit.cross)
        weight, change = write.moved(own, solved, self._decoder.dtype)
        found = [self._after(number, ids, gone, change) for number, (ids, held) in enumerate(self._batches) if held]
        loss, divergence = (sum(each) / self._positions for each in zip(*found, strict=True))
        return _Trial(layer, weight, loss, divergence)

    def _after(self, number: int, ids: Tensor, gone: int, change: Tensor) -> tuple[float, float]:
        """Summed loss and divergence of a batch whose state, changed by the repair, enters the layer above `gone`."""
        out = self._get("student", number)
        h = out + (self._get("inputs", number).float() @ change).to(out.dtype)
        calls = self._decoder.enter(ids)[1]
        for layer in self._student.layers:
            if layer > gone:
                h = self._student.step(layer, h, calls)
        return loss_and_divergence(self._decoder, h, ids, self._likely[number])

    def _get(self, *key: str | int) -> Tensor:
        return self._shelf.get(key).to(self._decoder.device)
