"""Layers that the user names."""

from __future__ import annotations

from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.recipe import Recipe
from lowrise.select.choice import Choice, breaks, not_allowed, spans_of
from lowrise.select.selection import Selection
from lowrise.sizes import named_layers


def check(decoder: Decoder, recipe: Recipe, k: int | None) -> None:
    """Raises RecipeError where none are named, where the model has no such layers, and where none would be left."""
    if recipe.layers is None:
        found = "none" if k is None else f"a number of them, {k}"
        raise RecipeError("--layers", "the layers to take out, as 12-19,21", found, "name them")
    check_named(recipe.layers, len(decoder))


def check_named(text: str, layers: int) -> None:
    """text: of `--layers`. Raises RecipeError where a model of `layers` layers lacks one, and where none is left."""
    named = named_layers(text)
    if named[-1] >= layers:
        expected = f"layers from 0 to {layers - 1}, which the model has"
        raise RecipeError("--layers", expected, f"layer {named[-1]}", "name others")
    if len(named) == layers:
        raise RecipeError("--layers", "a layer that is left", f"all {layers} layers", "name fewer")


def choose(selection: Selection) -> Choice:
    """Raises RecipeError where the layers that are named are not allowed, naming those that are nearest."""
    named, cuts = named_layers(str(selection.recipe.layers)), selection.cuts
    spans = spans_of(named)
    if breaks(cuts, spans):
        near = cuts.least([layer not in named for layer in range(cuts.layers)], len(named))
        remedy = "name another number of them" if near is None else f"nearest are {','.join(map(str, near))}"
        raise not_allowed("--layers", cuts, spans, remedy)
    return Choice(spans, {"criterion": "given"})
