"""Recipes into jobs: what a command is asked for, with what is not known before it is done taken as it mostly is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lowrise.calibration.text import read_text
from lowrise.cost.healing import Healing
from lowrise.cost.job import Job, Text
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import own_text
from lowrise.methods import method
from lowrise.model.batching import CPU_TOKENS
from lowrise.recipe import Recipe
from lowrise.settings import Precision
from lowrise.sizes import bytes_of, count_of, layers_to_remove, named_layers

_CHARACTERS = 4.0  # of a token, where no tokenizer is at hand
_SAMPLE = 20_000  # characters that are tokenised to know how many a token has
_SHARE = 0.25  # of the layers, taken to go where a threshold decides
_ITEMS, _ANSWERS, _ANSWER_TOKENS = 1000, 4, 64  # of a task, where nothing says how many items are asked


@dataclass
class Asked:
    """Makes jobs, and notes what it `assumed`, a sentence each. tokenizer: None where there is none."""

    recipe: Recipe
    shape: ModelShape
    tokenizer: Any = None
    batch: int = CPU_TOKENS
    assumed: list[str] = field(default_factory=list)

    def job(self, removed: int | None = None, texts: Sequence[Text] | None = None) -> Job:
        """removed: net layers, where they are known. texts: as they are measured, where they were read already.

        Raises RecipeError for a number of layers out of range, TextError for a text that cannot be read.
        """
        recipe, length = self.recipe, min(self.recipe.fitted_length, self.shape.longest)
        windows, written = self._windows(length)
        net = self._removed() if removed is None else removed
        measured = tuple(self._texts(recipe.eval_text) if texts is None else texts)
        if not measured:
            measured = own_text(max(1, round(recipe.training.validation * windows)), length)
        return Job(
            shape=self.shape,
            recipe=recipe,
            removed=net,
            windows=windows,
            length=length,
            written=written,
            texts=measured,
            task_tokens=self._task_tokens(),
            batch=max(self.batch, length),
        )

    def healing(
        self,
        student: ModelShape,
        free: float,
        texts: Sequence[Text] | None = None,
        precision: Precision | None = None,
    ) -> Healing:
        """Of `shape`, the dense model. free: bytes of memory. precision: as of `Timed.healed_in`."""
        recipe, settings = self.recipe, self.recipe.heal
        assert settings is not None
        sources = len(recipe.text) + len(settings.chat) + (recipe.dataset is not None)
        measured = tuple(self._texts(recipe.eval_text) if texts is None else texts)
        return Healing(student, self.shape, settings, sources, measured, self._task_tokens(), free, precision or "no")

    def _windows(self, length: int) -> tuple[int, int]:
        """Calibration windows, and those of them that the model writes."""
        recipe = self.recipe
        if method("criterion", recipe.select).looks_at == "sentences" and recipe.repair == "none":
            return recipe.samples, 0
        if recipe.tokens is not None:
            return recipe.samples, 0
        if not recipe.text and recipe.dataset is None:
            return recipe.samples, recipe.samples
        own = round(recipe.synthetic_share * recipe.samples)
        asked = max(1, recipe.samples - own)
        if recipe.text:
            asked = min(asked, max(1, int(sum(map(self._tokens, recipe.text)) // length)))
        return asked + own, own

    def _removed(self) -> int:
        recipe, shape = self.recipe, self.shape
        if recipe.layers is not None:
            return len(named_layers(recipe.layers))
        excess = None
        if recipe.keep_parameters is not None:
            excess = shape.parameters - count_of(recipe.keep_parameters)
        elif recipe.keep_memory is not None:
            excess = shape.parameters - bytes_of(recipe.keep_memory) / shape.stored
        elif recipe.keep_latency is not None:
            self.assumed.append("a layer taken to be 1/L of a token's time")
            excess = (1 - recipe.keep_latency) * shape.layers * shape.layer_parameters
        if excess is not None:
            return min(shape.layers - 1, max(1, math.ceil(excess / shape.layer_parameters)))
        if recipe.remove is None and method("criterion", recipe.select).decides_number:
            self.assumed.append("a quarter of the layers taken to pass the threshold")
            return max(1, round(_SHARE * shape.layers))
        return layers_to_remove(recipe.remove, shape.layers)

    def _texts(self, paths: Sequence[str]) -> list[Text]:
        recipe = self.recipe
        length = min(recipe.length, self.shape.longest)
        found = []
        for path in paths:
            windows = max(1, int(self._tokens(path) // length))
            found.append(Text(windows if recipe.windows is None else min(windows, recipe.windows), length))
        return found

    def _tokens(self, path: str) -> float:
        """Of a text file, by the beginning of it."""
        text = read_text(path).text
        beginning = text[:_SAMPLE]
        if self.tokenizer is None or not beginning:
            return len(text) / _CHARACTERS
        count = len(self.tokenizer(beginning, add_special_tokens=False)["input_ids"])
        return len(text) / len(beginning) * max(1, count)

    def _task_tokens(self) -> int:
        recipe = self.recipe
        if not recipe.tasks:
            return 0
        items = recipe.limit or _ITEMS
        how = f"{items:,} items of {_ANSWERS} answers a task"
        self.assumed.append(f"tasks are counted as {how}")
        return len(recipe.tasks) * items * _ANSWERS * _ANSWER_TOKENS
