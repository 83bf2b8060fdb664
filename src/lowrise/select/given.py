"""Layers that the user names."""

from __future__ import annotations

from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.recipe import Recipe
from lowrise.select.choice import Choice, spans_of
from lowrise.select.selection import Selection
from lowrise.sizes import named_layers


def check(decoder: Decoder, recipe: Recipe, k: int | None) -> None:
    """Raises RecipeError where none are named, where the model has no such layers, and where none would be left."""
    if recipe.layers is None:
        found = "none" if k is None else f"a number of them, {k}"
        raise RecipeError("--layers", "the layers to take out, as 12-19,21", found, "name them")
    named, layers = named_layers(recipe.layers), len(decoder)
    if named[-1] >= layers:
        expected = f"layers from 0 to {layers - 1}, which the model has"
        raise RecipeError("--layers", expected, f"layer {named[-1]}", "name others")
    if len(named) == layers:
        raise RecipeError("--layers", "a layer that is left", f"all {layers} layers", "name fewer")


def choose(selection: Selection) -> Choice:
    return Choice(spans_of(named_layers(str(selection.recipe.layers))), {"criterion": "given"})
