"""What a command will take, before it is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from lowrise.api.calibrating import keys_of
from lowrise.api.models import Model
from lowrise.errors import RecipeError
from lowrise.model.formats import named_format
from lowrise.model.placement import pick_devices
from lowrise.model.source import silenced_transformers
from lowrise.pipeline.estimating import Known, estimate_with, known_of, known_of_config, known_of_source
from lowrise.recipe import Recipe, build_recipe
from lowrise.results import Estimate

Estimated = Literal["run", "plan", "apply", "heal"]


def estimate(
    model: Model | PretrainedConfig | str | Path,
    *,
    command: Estimated = "run",
    **recipe: Any,
) -> Estimate:
    """Seconds, memory and disk of each stage of a command. Nothing is written, and no model changes.

    model: one in memory, whose own layer is timed; or a source (hub id, folder, .gguf file) or a config of
    transformers, of which one random layer is made and timed: no weights are read, nor fetched. command: `run`, `plan`,
    `apply` or `heal`; of `heal` the model is the shallow one, and `heal={"dense": ...}` names the dense one. recipe:
    keys of a recipe, as of `run`.

    Estimates are of this machine as it is now: their goal is 30%. `seconds`, `memory_bytes`, `disk_bytes` are of the
    whole; `stages` has them stage by stage, `assumed` says what was not known.
    Raises RecipeError for a setting that is unknown or out of range, TextError for a text that cannot be read,
    ModelError for a model that cannot be described.

    >>> found = lowrise.estimate("org/name", preset="block-influence", remove=2, samples=8, length=16)
    >>> found.layers, found.layers_after, found.tokens
    (6, 4, 128)
    >>> found.seconds > 0 and {"open", "observe", "write"} <= {stage.name for stage in found.stages}
    True
    """
    if command not in (wanted := ("run", "plan", "apply", "heal")):
        raise RecipeError("command", f"one of {', '.join(wanted)}", repr(command), "choose one")
    given = keys_of(recipe)
    if isinstance(model, Model):
        settings = build_recipe({} if model.wrapped else model.settings(), given)
        with silenced_transformers():
            return _of(command, settings, known_of(model.unedited(), command, settings))
    if isinstance(model, PretrainedConfig):
        settings = build_recipe(given)
        return _of(command, settings, _known_of_config(command, model, settings))
    settings = build_recipe({"model": str(model)}, given)
    with silenced_transformers():
        return _of(command, settings, known_of_source(command, settings))


def _of(command: Estimated, recipe: Recipe, known: Known) -> Estimate:
    return estimate_with(command, recipe, known, "heal.dense")


def _known_of_config(command: Estimated, config: PretrainedConfig, recipe: Recipe) -> Known:
    stored = named_format(config) or torch.float32
    stored = stored if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    name = str(getattr(config, "name_or_path", "") or config.model_type)
    return known_of_config(command, config, name, stored, recipe, pick_devices(recipe.device)[0])
