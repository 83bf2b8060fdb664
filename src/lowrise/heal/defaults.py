"""What a healing takes where its settings leave it open: the one place of these numbers."""

from __future__ import annotations

import math

from lowrise.heal.objective import Goal
from lowrise.heal.schedule import Schedule
from lowrise.heal.tokens import TrainingTokens
from lowrise.settings import Heal, Trained, Training

MOST_TRAINED = 2 * 10**9  # parameters up to which all are trained: weights, gradients and moments take 16 bytes each
_ROOM = 0.8  # of the memory that is free, for both models and the training's state
_BYTES = 16  # of a parameter that trains: itself, gradient and two moments, float32
_WARMUP = 0.03  # share of the steps
_LAST = 0.1  # of the learning rate, at the last step
_STEPS = 1000  # optimiser steps that a budget of many tokens comes to, about
_FEWEST_TOKENS, _MOST_TOKENS = 1024, 65536  # of a step

# Learning rates of a model whose weights have a root mean square of 1. A step of AdamW moves every weight by about the
# rate, whatever its size, and sizes differ fivefold between real models (docs/log.md, 2026-12-01).
_RATES: dict[Trained, float] = {"all": 1e-3, "lora": 5e-3, "network": 2.5e-3, "gaps": 2.5e-3, "tail": 1e-3}
_POINTS = 10  # at which the held-out loss is measured, at most, beside the start
_READ = 0.03  # share of the budget that one of them may read: forward passes alone, so a tenth of the time in all
_LEAST_READ = 1024  # tokens of each text, that it says something; with a small budget there are fewer points


def trained(settings: Heal, parameters: int) -> Trained:
    """What trains, of a student of so many parameters."""
    if settings.train != "auto":
        return settings.train
    return "all" if parameters <= MOST_TRAINED else "lora"


def fits_in_memory(learning: float, free: float) -> bool:
    """Whether so many parameters can train beside the dense model. free: bytes."""
    return _BYTES * learning <= _ROOM * free


def learning_rate(settings: Heal, train: Trained, scale: float) -> float:
    """scale: `weight_scale` of the student."""
    return _RATES[train] * scale if settings.learning_rate is None else settings.learning_rate


def goal_of(settings: Heal) -> Goal:
    share = {"kl": 1.0, "ce": 0.0, "mix": settings.mix}[settings.objective]
    return Goal(share, settings.temperature)


def batch_windows(settings: Heal, length: int, windows: int) -> int:
    """Windows of an optimiser step, over all processes."""
    tokens = settings.batch_tokens
    if tokens is None:
        usual = 2 ** round(math.log2(max(1, settings.budget / _STEPS)))
        tokens = min(_MOST_TOKENS, max(_FEWEST_TOKENS, usual))
    return min(windows, max(1, tokens // length))


def schedule_of(windows: int, batch: int, rate: float) -> tuple[Schedule, Training]:
    """Warm-up, cosine and the rates they run between, as of `Schedule.rate`."""
    steps = math.ceil(windows / batch)
    warmup = min(steps - 1, max(1, round(_WARMUP * steps)))
    return Schedule(steps, batch, 1, warmup), Training(learning_rate=rate, min_learning_rate=_LAST * rate)


def evaluations(made: TrainingTokens, steps: int) -> tuple[frozenset[int], int]:
    """Steps after which the held-out loss is measured, the last one among them, and tokens of each text for it."""
    budget, texts = made.ids.numel(), [*made.held_out.values(), made.guard[1]]
    each = max(_LEAST_READ, int(_READ * budget / len(texts)))
    read = sum(min(each, windows.tokens) for windows in texts)
    points = min(steps, _POINTS, max(2, int(_POINTS * _READ * budget / read)))
    return frozenset(round(steps * number / points) for number in range(1, points + 1)), each
