"""Where a training stands, kept every so often, so that a process to come goes on with the same bits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowrise.edit.replace import Trainee
from lowrise.work import Work

SHARE = 0.02  # of the time, that keeping may take
BYTES_PER_SECOND = 2e8  # guessed, until something was kept


@dataclass
class Progress:
    """step: optimiser steps done. losses, points: (steps done, loss) of training and of validation.

    best_step, best, best_weights: of the least validation loss.
    """

    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    points: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best: float = 0.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class KeepingPace:
    """When it is time to keep a state, so that it takes SHARE of the time. size: bytes of what trains."""

    def __init__(self, size: int) -> None:
        self._cost, self._since = 4 * size / BYTES_PER_SECOND, time.monotonic()

    def is_due(self) -> bool:
        return self._cost <= SHARE * (time.monotonic() - self._since)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Around the keeping, which tells what the next one costs."""
        began = time.monotonic()
        yield
        self._since = time.monotonic()
        self._cost = self._since - began


class TrainingState:
    """Weights, Adam's moments and `Progress`. Batches come in an order that the seed and the step decide."""

    def __init__(self, work: Work, trainee: Trainee, optimiser: torch.optim.Optimizer) -> None:
        self._work, self._trainee, self._optimiser = work, trainee, optimiser
        self._pace = KeepingPace(sum(value.nbytes for value in trainee.module.state_dict().values()))

    def restore(self) -> Progress | None:
        """What was kept last, once network and optimiser are as they were."""
        kept = self._work.find("training")
        if kept is None:
            return None
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in kept.tensors.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = value
        self._trainee.module.load_state_dict(parts["now"])
        for number, parameter in enumerate(self._trainee.parameters):
            moments = parts.get(f"adam{number}")
            if moments is not None:
                self._optimiser.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device) for name, value in moments.items()
                }
        about, device = kept.value, self._trainee.parameters[0].device
        best = {name: value.to(device) for name, value in parts["best"].items()}
        losses, points = ([(step, loss) for step, loss in about[key]] for key in ("losses", "points"))
        return Progress(about["step"], losses, points, about["best_step"], about["best"], best)

    def keep(self, done: Progress, *, last: bool) -> None:
        """Where it is time for it, or this was the `last` step."""
        if not self._work.keeps or not (last or self._pace.is_due()):
            return
        with self._pace.keeping():
            self._write(done)

    def _write(self, done: Progress) -> None:
        tensors = {f"now.{name}": value for name, value in self._trainee.module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in done.best_weights.items()}
        for number, parameter in enumerate(self._trainee.parameters):
            moments = self._optimiser.state.get(parameter, {})
            tensors |= {f"adam{number}.{name}": value for name, value in moments.items()}
        about = {name: getattr(done, name) for name in ("step", "losses", "points", "best_step", "best")}
        self._work.keep("training", about, tensors, what=f"step {done.step} of a training")
