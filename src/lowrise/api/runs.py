"""Whole runs, as the commands of the same names do them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowrise import pipeline
from lowrise.api.calibrating import keys_of
from lowrise.api.models import Model
from lowrise.api.progress import Progress, reporting
from lowrise.api.sources import source_of
from lowrise.compare import ask, check_place
from lowrise.compare import compare as compare_presets
from lowrise.files import check_output
from lowrise.inputs import inputs_of
from lowrise.recipe import build_recipe
from lowrise.results import Comparison, Results


def run(
    model: Model | str | Path, out: str | Path, *, force: bool = False, progress: Progress = None, **recipe: Any
) -> Results:
    """Plan, edit, measure and write, in one go: the folder that `lowrise run` writes, its page and model card included.

    model: a source, or a Model, which stays as it is: its source is opened anew. One that was wrapped has none. It is
    saved to a hidden folder beside `out`, which is opened in its number format on its device, and goes at the end; so
    two models are in memory, and the plan names a folder that is no more. recipe: keys of a recipe, as
    `preset="refit"`, `remove="25%"`, `text=["a.txt"]`, `eval_text=["b.txt"]`, `tasks=["piqa"]`. force: replace an empty
    folder or an output of lowrise, once the new one is whole.
    Raises RecipeError for a setting that is unknown or out of range, OutputError for a place that is taken, ModelError
    for a wrapped model that was edited or healed, and what `open`, `plan`, `apply`, `measure` and `Model.save` raise.

    >>> results = lowrise.run("org/name", "ran", preset="tail", remove=2, text=["a.txt"], samples=8, length=16)
    >>> results.layers, results.dense.layers
    (4, 6)
    """
    source = source_of(model, Path(out))
    settings = build_recipe(source.settings, keys_of(recipe))
    check_output(Path(out), force, inputs_of(settings))
    with source.there(progress), reporting(progress, "run") as reporter:
        return pipeline.run(settings, Path(out), force, reporter)


def compare(
    model: Model | str | Path,
    presets: Sequence[str],
    remove: Sequence[int | str],
    out: str | Path,
    *,
    keep: bool = False,
    force: bool = False,
    progress: Progress = None,
    **recipe: Any,
) -> Comparison:
    """Every preset at every size on one model: table, pictures and page in the folder `out`. Goes on where it stopped.

    model: as of `run`. remove: net layers, 4 or "25%". Each row is a process of its own. keep: keep every row's
    checkpoint. force: begin an existing comparison anew. recipe: keys of a recipe for all rows; each goes to the
    presets that look at it.
    Raises InputError for what cannot be done at all, before any row is begun; StepError where every row fails, or what
    comes before them.

    >>> found = lowrise.compare("org/name", ["tail"], [2], "compared", text=["a.txt"], length=16)  # doctest: +SKIP
    >>> found.rows[0].preset  # doctest: +SKIP
    'tail'
    """
    source = source_of(model, Path(out))
    asked = ask([*presets], [str(size) for size in remove], [source.settings, keys_of(recipe)], where="")
    check_place(Path(out), force, inputs_of(asked.recipes[0]))
    with source.there(progress), reporting(progress, "compare") as reporter:
        return compare_presets(asked, Path(out), force, keep, reporter)
