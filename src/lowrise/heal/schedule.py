"""How long to train, and at which rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowrise.settings import Training

# The paper's one epoch over 30,000 to 100,000 sequences in batches of 128 is 234 to 781 optimiser steps.
_STEPS = 500
_MOST_EPOCHS = 20
_MOST_BATCH_TOKENS = 128 * 2048


@dataclass(frozen=True)
class Schedule:
    """steps: optimiser steps in all; batch: windows a step; epochs: passes over the training windows."""

    steps: int
    batch: int
    epochs: int
    warmup: int

    def rate(self, step: int, settings: Training) -> float:
        """Learning rate of optimiser step 0..steps-1: linear warm-up, cosine, at the last step the minimum rate."""
        high, low = settings.learning_rate, settings.min_learning_rate
        if step < self.warmup:
            return high * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return low + (high - low) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def make_schedule(windows: int, length: int, settings: Training) -> Schedule:
    """A schedule in optimiser steps for so many training windows of so many tokens.

    What `settings` leaves open keeps the paper's number of steps: with fewer tokens than the paper's, epochs are added
    first, then the batch shrinks, down to one window.
    """
    tokens = windows * length
    batch_tokens = settings.batch_tokens or min(_MOST_BATCH_TOKENS, tokens * _MOST_EPOCHS // _STEPS)
    batch = min(windows, max(1, batch_tokens // length))
    steps_an_epoch = math.ceil(windows / batch)
    epochs = settings.epochs or max(1, min(_MOST_EPOCHS, round(_STEPS / steps_an_epoch)))
    steps = steps_an_epoch * epochs
    warmup = min(steps - 1, max(1, round(settings.warmup * steps))) if settings.warmup and steps > 1 else 0
    return Schedule(steps=steps, batch=batch, epochs=epochs, warmup=warmup)
