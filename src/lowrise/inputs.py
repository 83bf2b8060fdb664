"""The places that a run reads, and so must not write over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowrise.recipe import Recipe


def inputs_of(recipe: Recipe) -> list[str | None]:
    """Paths that a recipe names; the model may be the id of a hub instead."""
    healing = [] if recipe.heal is None else [recipe.heal.dense, recipe.heal.guard, *recipe.heal.chat]
    return [recipe.model, *recipe.text, *recipe.eval_text, recipe.dataset, recipe.task_dir, recipe.tokens, *healing]
