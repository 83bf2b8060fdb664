"""The places that a run reads, and so must not write over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lowrise.errors import TextError, close_paths
from lowrise.reading import kind_of, refusing

if TYPE_CHECKING:
    from lowrise.recipe import Recipe
    from lowrise.settings import Heal

TEXT_FILE = ("a readable file of UTF-8 text", "check the path, or convert the file")
"""What is expected of a text, and what to do where it is none."""


def check_there(recipe: Recipe) -> None:
    """Before torch is loaded, which takes seconds. Raises TextError for a text that is not there."""
    for path in (*recipe.text, *recipe.eval_text):
        with refusing(path, TextError, *TEXT_FILE):
            Path(path).stat()
    if recipe.heal is not None:
        check_healing_files(recipe.heal)


def check_healing_files(settings: Heal) -> None:
    """Raises TextError for a text or a chat that is no file."""
    files = [("--guard", settings.guard), *(("--chat", path) for path in settings.chat)]
    for option, path in files:
        if path is not None and (kind := kind_of(path, TextError, "a text file", "check the path")) != "file":
            remedy = close_paths(path, "check the path")
            raise TextError(f"{option} {path}", "a file", kind or "nothing there", remedy)


def inputs_of(recipe: Recipe) -> list[str | None]:
    """Paths that a recipe names; the model may be the id of a hub instead."""
    healing = [] if recipe.heal is None else [recipe.heal.dense, recipe.heal.guard, *recipe.heal.chat]
    return [recipe.model, *recipe.text, *recipe.eval_text, recipe.dataset, recipe.task_dir, recipe.tokens, *healing]
