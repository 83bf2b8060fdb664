"""The loop that heals a shallow model.

It stands on accelerate itself, not on transformers' Trainer: Trainer keeps optimiser and random states as pickles and
whole checkpoints at every save, its loss sees whole logits of (tokens × vocabulary), and its resuming covers neither
the choice by held-out text nor the curves. accelerate gives what is hard: processes (DDP, FSDP), mixed precision,
gradients that are summed over micro-batches, clipping over shards, and loggers. Windows come by their number, so
nothing is random here, and a step's loss is divided by all tokens that it counts: the curve is the same, to rounding,
for any number of processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.heal.guarding import Guarding
from lowrise.heal.objective import StudentLoss
from lowrise.heal.schedule import Schedule
from lowrise.heal.standing import Keeping, Standing
from lowrise.heal.teacher import Teacher
from lowrise.heal.tokens import TrainingTokens
from lowrise.model.batching import Batching
from lowrise.progress import Bar, Reporter
from lowrise.settings import Training
from lowrise.work import Work

_BETAS, _CLIP = (0.9, 0.95), 1.0
_FORETOLD = 60.0  # seconds of training after which its end is said


@dataclass(frozen=True)
class TrainingPlan:
    """schedule, rates: of the optimiser steps. micro: tokens of a forward pass. points: steps after which the held-out
    loss is measured, the last one among them. evaluated: tokens of each held-out text that it is measured on, at most.
    """

    schedule: Schedule
    rates: Training
    micro: int
    points: frozenset[int]
    evaluated: int


def train(
    student: StudentLoss,
    teacher: Teacher | None,
    tokens: TrainingTokens,
    plan: TrainingPlan,
    accelerator: Accelerator,
    progress: Reporter,
    work: Work,
) -> Standing:
    """Train in place; what is to be kept is `best` of what it returns, where that holds anything, else the start.

    A loss that is no number ends it: `stopped` says at which step. teacher: None where the goal asks nothing of it.
    """
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    rate = plan.rates.learning_rate
    optimiser: Any = torch.optim.AdamW(learning, lr=rate, betas=_BETAS, weight_decay=0.0, fused=True)
    module, optimiser = accelerator.prepare(student, optimiser)
    run = _Run(module, teacher, tokens, plan, accelerator, student.decoder.batching)
    keeping = Keeping(work, module, optimiser.optimizer, accelerator)
    name = tokens.guard[0]
    done = keeping.restore(name)
    if done is None:
        done = Standing(Guarding(name))
        with progress.stage("held-out loss at the start"):
            done.guarding.add(0, run.held_out())
    clock = _Clock(done.step, plan.schedule.steps, progress)
    with progress.bar("healing", plan.schedule.steps) as bar:
        if done.step:
            bar.advance(0, "kept from before", steps=done.step)
        while done.step < plan.schedule.steps and done.stopped is None:
            _step(run, done, optimiser, clock, bar)
            if done.step in plan.points and done.stopped is None:
                _measure(run, done, keeping, progress)
            keeping.keep(done, last=done.step == plan.schedule.steps or done.stopped is not None)
    if done.stopped is not None:
        progress.warn(done.stopped)
    return done


def _step(run: _Run, done: Standing, optimiser: Any, clock: _Clock, bar: Bar) -> None:
    plan, accelerator = run.plan, run.accelerator
    rate = plan.schedule.rate(done.step, plan.rates)
    for group in optimiser.param_groups:
        group["lr"] = rate
    began = time.monotonic()
    optimiser.zero_grad()
    loss, seen = run.backward(done.step)
    norm = float(accelerator.clip_grad_norm_(run.learning, _CLIP))
    if not math.isfinite(loss) or not (math.isfinite(norm) or accelerator.mixed_precision == "fp16"):
        what = "loss" if not math.isfinite(loss) else "gradient"
        done.stopped = (
            f"healing stopped at step {done.step + 1} of {plan.schedule.steps}: its {what} is no number; lower "
            "--learning-rate"
        )
        return
    optimiser.step()
    done.seconds += time.monotonic() - began
    done.step += 1
    done.tokens += seen
    done.losses.append((done.tokens, loss))
    accelerator.log({"train/loss": loss, "train/learning_rate": rate, "train/tokens": done.tokens}, step=done.step)
    bar.advance(seen, clock.note(done, loss))


def _measure(run: _Run, done: Standing, keeping: Keeping, progress: Reporter) -> None:
    losses = run.held_out()
    was_worse = done.guarding.worse()
    better = done.guarding.add(done.tokens, losses)
    if better:
        done.best = {name: value.clone() for name, value in keeping.weights().items()}
    run.accelerator.log({f"held out/{name}": loss for name, loss in losses.items()}, step=done.step)
    told = ", ".join(
        f"{name} {points[0][1]:.4f} → {points[-1][1]:.4f}" for name, points in done.guarding.points.items()
    )
    progress.say(f"held-out loss after {done.tokens:,} tokens: {told}")
    if done.guarding.worse() and not was_worse:
        progress.say(f"{done.guarding.guard} is worse than at the start: these weights are not kept")


class _Run:
    """Forward and backward over windows, each process over its share of every step."""

    def __init__(
        self,
        module: Any,
        teacher: Teacher | None,
        tokens: TrainingTokens,
        plan: TrainingPlan,
        accelerator: Accelerator,
        batching: Batching,
    ) -> None:
        self.plan, self.accelerator, self._micro, self._batching = plan, accelerator, plan.micro, batching
        self.learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._module, self._teacher, self._tokens = module, teacher, tokens

    def backward(self, step: int) -> tuple[float, int]:
        """(mean loss over the step's counted tokens, tokens read), over all processes; gradients are summed.

        A single process that runs out of memory takes half as many windows at a time; of several, others would wait.
        """
        length = self._tokens.ids.shape[1]
        first = max(1, self._micro // length)

        def anew(windows: int) -> tuple[float, int]:
            if windows < first:
                self._micro = windows * length
                for parameter in self.learning:
                    parameter.grad = None
            return self._backward(step)

        return self._batching.halving(first, length, anew, shrinks=self.accelerator.num_processes == 1)

    def _backward(self, step: int) -> tuple[float, int]:
        batch = self.plan.schedule.batch
        rows = range(step * batch, min((step + 1) * batch, len(self._tokens.ids)))
        count = max(1, int(self._counted(rows)[:, 1:].sum()))
        total = torch.zeros((), device=self.accelerator.device)
        pieces = [*self._pieces(rows, self._tokens.ids.shape[1])]
        for number, (mine, real) in enumerate(pieces):
            ids, counted = self._tokens.ids[mine], self._counted(mine)
            counted[real:] = False
            targets = None if self._teacher is None else self._teacher.targets(mine, ids, counted)
            with nullcontext() if number + 1 == len(pieces) else self.accelerator.no_sync(self._module):
                loss = self._module(ids, counted, targets)
                # processes' gradients are averaged, not summed
                self.accelerator.backward(loss * (self.accelerator.num_processes / count))
            total += loss.detach()
        return float(self.accelerator.reduce(total, "sum")) / count, len(rows) * self._tokens.ids.shape[1]

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Mean next-token loss of every held-out text, natural log."""
        texts, answers = (*self._tokens.held_out.items(), self._tokens.guard), self._tokens.answers
        return {text: self._loss(windows, answers.get(text)) for text, windows in texts}

    def _loss(self, windows: Windows, answers: Tensor | None) -> float:
        """answers: the tokens that count; all, where there is none among those that are read."""
        windows = windows.first(max(1, self.plan.evaluated // windows.length))
        total = torch.zeros((), device=self.accelerator.device)
        counted = all_but(windows.prefix, windows.ids)
        if answers is not None and (told := counted & answers[: len(windows)])[:, 1:].any():
            counted = told
        for mine, real in self._pieces(range(len(windows)), windows.length):
            own = counted[mine]
            own[real:] = False
            total += self._module(windows.ids[mine], own)
        return float(self.accelerator.reduce(total, "sum")) / int(counted[:, 1:].sum())

    def _counted(self, rows: range | list[int]) -> Tensor:
        """(windows, length), a copy."""
        if self._tokens.counted is None:
            return all_but(self._tokens.prefix, self._tokens.ids[rows])
        return self._tokens.counted[rows].clone()

    def _pieces(self, rows: range, length: int) -> Iterator[tuple[list[int], int]]:
        """This process's rows in pieces small enough to hold, and how many of each are real: as many pieces of as many
        rows in every process, which the last row fills up.
        """
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        share = -(-len(rows) // processes)
        mine = [*rows[index * share : (index + 1) * share]]
        real = len(mine)
        mine += [rows[-1]] * (share - real)
        size = max(1, self._micro // length)
        for first in range(0, share, size):
            yield mine[first : first + size], min(max(0, real - first), size)


def all_but(prefix: int, ids: Tensor) -> Tensor:
    """ids (windows, length) → which of them are targets: all that have a token before them but those of the prefix."""
    counted = torch.ones(ids.shape, dtype=torch.bool)
    counted[:, : max(1, prefix)] = False
    return counted


class _Clock:
    """When it will be over. done: steps of earlier attempts."""

    def __init__(self, done: int, steps: int, progress: Reporter) -> None:
        self._began, self._done, self._steps, self._progress = time.monotonic(), done, steps, progress
        self._foretold = False

    def note(self, done: Standing, loss: float) -> str:
        """For the bar: the loss, and the time that is left, measurements included."""
        passed = time.monotonic() - self._began
        left = passed / max(1, done.step - self._done) * (self._steps - done.step)
        if not self._foretold and left > 0 and passed > _FORETOLD:
            self._foretold = True
            over = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            rate = done.tokens / max(done.seconds, 1e-9)
            self._progress.say(f"healing goes at {rate:,.0f} tokens/s and will be over at about {over}")
        return f"loss {loss:.4g}, {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
