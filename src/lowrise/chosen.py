"""What `lowrise run MODEL` decides where nothing was said: the name of its output, and a line that tells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lowrise.errors import RecipeError

if TYPE_CHECKING:
    from lowrise.recipe import Recipe

_GGUF = ".gguf"


def output_of(recipe: Recipe) -> Path:
    """Beside a model that lies on this disk, in the current folder for one of the hub: MODEL-PRESET-SIZE.

    The same settings give the same name, so that the same command goes on where it was stopped. Raises RecipeError
    where no model is named.
    """
    if recipe.model is None:
        raise RecipeError("MODEL", "a hub id, a folder or a .gguf file", "none", "name one")
    model = Path(recipe.model)
    beside = model.absolute().parent if os.path.lexists(model) else Path.cwd()
    name = model.name if model.name not in ("", "..") else model.resolve().name  # of `.`, the folder's own name
    words = [name.removesuffix(_GGUF), recipe.preset, _size(recipe)]
    named = "-".join(re.sub(r"[^\w.-]+", "_", word).strip("_") for word in words if word)
    found = beside / (named.lstrip(".") or "shallower")
    return Path(found.name) if beside == Path.cwd() else found


def _size(recipe: Recipe) -> str:
    if recipe.layers is not None:
        return f"without-{recipe.layers}"
    if recipe.remove is not None:
        share = recipe.remove.strip().endswith("%")
        return f"{recipe.remove.strip().removesuffix('%')}-{'percent' if share else 'layers'}-less"
    kept = (recipe.keep_parameters, recipe.keep_memory, recipe.keep_latency)
    return next((f"keeps-{value}" for value in kept if value is not None), "")


def chosen(recipe: Recipe, out: Path, given: Iterable[str]) -> str | None:
    """In a line what was not said and is therefore as usual, each with the option that changes it; None: nothing.

    given: keys of the recipe that were said, `out` among them where the output was.
    """
    said = {*given}
    sizes = {"remove", "layers", "keep_parameters", "keep_memory", "keep_latency"}
    parts = []
    if not said & (sizes | {"merge_search"}) and recipe.remove is not None:
        parts.append(f"{recipe.remove} of the layers go (--remove)")
    if not said & {"preset", "layers"}:
        parts.append(f"by {recipe.preset} (--preset)")
    if not said & {"text", "dataset", "tokens"}:
        parts.append("fitted on text that the model writes (--text)")
    if "out" not in said:
        parts.append(f"into {out} (--out)")
    return f"as usual, since nothing else was said: {'; '.join(parts)}" if parts else None
