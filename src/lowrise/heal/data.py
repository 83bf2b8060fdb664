"""From texts and the dense model's own writing to the windows that a student is healed on."""

from __future__ import annotations

from typing import Any

import torch

from lowrise.calibration import Windows, calibration_windows, text_windows
from lowrise.errors import TextError
from lowrise.heal.tokens import TrainingTokens
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.settings import Heal

_HELD_OUT = 8  # windows of each source, and of the guard, at most


def training_tokens(dense: OpenModel, settings: Heal, recipe: Recipe, progress: Reporter) -> TrainingTokens:
    """Raises TextError where the texts are too short for one window to train on beside one held out."""
    length = min(settings.window, dense.decoder.max_length)
    wanted = max(1, settings.budget // length)
    how: dict[str, Any] = {"length": length, "seed": recipe.seed, "progress": progress, "bos": recipe.bos}
    made = calibration_windows(
        dense.decoder, dense.tokenizer, text=recipe.text, dataset=recipe.dataset,
        samples=wanted + _HELD_OUT, written=settings.written if recipe.text else 0.0, **how,
    )  # fmt: skip
    rest, held_out = made.split(min(0.1, _HELD_OUT / len(made)))
    if settings.guard is not None:
        guard = text_windows(dense.tokenizer, settings.guard, length, recipe.bos).first(_HELD_OUT)
    else:
        guard = calibration_windows(
            dense.decoder, dense.tokenizer, text=[], dataset=None, samples=_HELD_OUT, **{**how, "seed": recipe.seed + 1}
        )
    times = -(-wanted // len(rest))
    if times > settings.repeat:
        found = f"{len(rest) * length:,} tokens, each of which would be seen {times} times"
        raise TextError(made.source, f"text for {settings.tokens} tokens", found, "give more, or a smaller --tokens")
    ids = torch.cat([rest.ids] * times)[:wanted].int()
    source = torch.zeros(len(ids), dtype=torch.int32)
    return TrainingTokens(ids, None, made.prefix, source, (made.source,), {made.source: held_out}, _named(guard))


def _named(guard: Windows) -> tuple[str, Windows]:
    return f"guard: {guard.source}", guard
