"""The places that a run reads, and so must not write over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lowrise.errors import TextError
from lowrise.reading import refusing

if TYPE_CHECKING:
    from lowrise.recipe import Recipe

TEXT_FILE = ("a readable file of UTF-8 text", "check the path, or convert the file")
"""What is expected of a text, and what to do where it is none."""


def check_there(recipe: Recipe) -> None:
    """Before torch is loaded, which takes seconds. Raises TextError for a text that is not there."""
    guard = [] if recipe.heal is None or recipe.heal.guard is None else [recipe.heal.guard]
    for path in (*recipe.text, *recipe.eval_text, *guard):
        with refusing(path, TextError, *TEXT_FILE):
            Path(path).stat()


def inputs_of(recipe: Recipe) -> list[str | None]:
    """Paths that a recipe names; the model may be the id of a hub instead."""
    healing = [] if recipe.heal is None else [recipe.heal.dense, recipe.heal.guard, *recipe.heal.chat]
    return [recipe.model, *recipe.text, *recipe.eval_text, recipe.dataset, recipe.task_dir, recipe.tokens, *healing]
