"""refit's search: one layer after the other, always the one that the REPAIRED model misses least.

A similarity says how much a layer writes, not whether the others can be made to write it. So a trial here takes the
layer out, gives the layer before it the matrix that meets the dense model's state behind the gap (`edit/repair.py`),
and asks for the loss on held-out tokens.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.gram import Gram, solve
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.writes import captured, mlp_write
from lowrise.observe.loss import next_token_loss
from lowrise.observe.shelf import Shelf
from lowrise.observe.stream import BATCH_TOKENS
from lowrise.progress import Bar, Reporter
from lowrise.select.choice import Choice, choice_of_rounds, lowest, round_of

# What an effort of 1 spends. Differences between trials are much sharper than the losses, since all see the same
# tokens; a layer that was among the worst in one round is not the best of the next.
FIT_TOKENS = 12_288
HELD_OUT_TOKENS = 2_048
SHORTLIST = 12  # trials a round, after the first round has tried every layer


def choose_repaired(
    decoder: Decoder, windows: Windows, held_out: Windows, k: int, effort: int, report: Reporter
) -> Choice:
    """k layers, never the first, each chosen on the model that the ones before left, repaired. Changes nothing.

    windows: fitted, the first 12,288·effort tokens of them; held_out: decides, the first 2,048·effort. Losses are means
    over positions, natural log. On disk lie the dense model's states of these tokens, in memory one batch, two Gram
    matrices and one changed matrix a gap. `check_repair` says which models can be searched.
    """
    fitted = windows.first(max(1, FIT_TOKENS * effort // windows.length))
    deciding = held_out.first(max(1, HELD_OUT_TOKENS * effort // windows.length))
    tries = [min(len(decoder) - 1 - done, SHORTLIST * effort if done else len(decoder)) for done in range(k)]
    rounds: list[dict[str, Any]] = []
    with Shelf() as shelf, report.bar("searching", sum(tries)) as bar:
        search = _Search(decoder, fitted, deciding, shelf)
        candidates = list(range(1, len(decoder)))
        known: dict[int, float] = {}  # the last loss of every layer that is left
        for _ in range(k):
            changes, losses = search.trials(candidates, bar)
            (gone,) = lowest(losses, 1, losses)
            search.remove(gone, changes)
            rounds.append(round_of(gone, losses, len(decoder)))
            known |= losses
            del known[gone]
            candidates = sorted(lowest(known, SHORTLIST * effort, known))
    choice = choice_of_rounds("repaired", search.dense_loss, rounds)
    choice.scores["tokens"] = {"fitted": fitted.tokens, "held_out": deciding.tokens}
    return choice


class _Search:
    """The student so far, and the dense model's h[0..L] of every batch on the shelf."""

    @torch.no_grad()
    def __init__(self, decoder: Decoder, fitted: Windows, deciding: Windows, shelf: Shelf) -> None:
        self._decoder, self._shelf = decoder, shelf
        self._student = Student(decoder, list(range(len(decoder))))
        self._batches = [(ids, False) for ids in fitted.batches(BATCH_TOKENS)]
        self._batches += [(ids, True) for ids in deciding.batches(BATCH_TOKENS)]
        self._positions = len(deciding) * (deciding.length - 1)
        total = 0.0
        for number, (ids, held) in enumerate(self._batches):
            for layer, h in decoder.states(ids):
                shelf.put(("dense", number, layer), h)
            total += next_token_loss(decoder, h, ids) if held else 0.0
        self.dense_loss = total / self._positions

    @torch.no_grad()
    def trials(self, candidates: list[int], bar: Bar) -> tuple[dict[int, tuple[int, Tensor]], dict[int, float]]:
        """By layer that is tried: (the layer before it, its new weight), and the held-out loss of the two together.

        One pass through the student: a trial begins at the state that enters the layer before the one that goes.
        """
        changes: dict[int, tuple[int, Tensor]] = {}
        losses: dict[int, float] = {}
        layers = self._student.layers
        first = min([*(layers[layers.index(one) - 1] for one in candidates), *self._student.changed])
        for number in range(len(self._batches)):  # below the first change the student is the dense model
            self._shelf.put(("student", number), self._get("dense", number, first))
        last = max(layers.index(one) for one in candidates)
        for layer, following in itertools.pairwise(layers[: last + 1]):
            if layer < first:
                continue
            if following in candidates:
                changes[following], losses[following] = self._try(layer, following)
                bar.advance(self._positions, f"loss {min(losses.values()):.3f}")
            else:
                for number, (ids, _) in enumerate(self._batches):
                    calls = self._decoder.enter(ids)[1]
                    out = self._student.step(layer, self._get("student", number), calls)
                    self._shelf.put(("student", number), out)
        return changes, losses

    def remove(self, gone: int, changes: dict[int, tuple[int, Tensor]]) -> None:
        """Leave layer `gone` out for good, with the repair that its trial found."""
        before, weight = changes[gone]
        self._student.layers.remove(gone)
        self._student.changed.pop(gone, None)
        self._student.changed[before] = {mlp_write(self._decoder, before).parameter: weight}

    def _try(self, layer: int, gone: int) -> tuple[tuple[int, Tensor], float]:
        """Take `gone` out and refit `layer`, the one before it. The student's states pass `layer` as it was."""
        stop, write = self._student.following(gone), mlp_write(self._decoder, layer)
        own = write.matrix(self._student.parameter(layer, write.parameter)).float()
        fit, held_out = Gram(own), Gram(own)
        for number, (ids, held) in enumerate(self._batches):
            calls = self._decoder.enter(ids)[1]
            with captured(write.module) as inputs:
                out = self._student.step(layer, self._get("student", number), calls)
            self._shelf.put(("student", number), out)
            (held_out if held else fit).add(inputs[0], self._get("dense", number, stop).float() - out.float())
            if held:
                self._shelf.put(("inputs", number), inputs[0].view(*out.shape[:-1], -1))
        weight, change = write.moved(own, solve(fit, held_out).change, self._decoder.dtype)
        total = 0.0
        for number, (ids, held) in enumerate(self._batches):
            if held:
                total += self._loss_after(number, ids, gone, change)
        return (layer, weight), total / self._positions

    def _loss_after(self, number: int, ids: Tensor, gone: int, change: Tensor) -> float:
        """Summed loss of one batch whose state, changed as the repair would, enters the layer above `gone`."""
        out = self._get("student", number)
        h = out + (self._get("inputs", number).float() @ change).to(out.dtype)
        calls = self._decoder.enter(ids)[1]
        for layer in self._student.layers:
            if layer > gone:
                h = self._student.step(layer, h, calls)
        return next_token_loss(self._decoder, h, ids)

    def _get(self, *key: str | int) -> Tensor:
        return self._shelf.get(key).to(self._decoder.device)
