"""What comes before the rows, in a process of its own: is everything asked for possible, and the calibration tokens."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lowrise.calibration.stored import store_tokens, stored_tokens
from lowrise.compare.estimating import estimate_rows, healed_first
from lowrise.compare.folder import ASKED, PREPARED, read_question, tokens_file, weights_of
from lowrise.compare.request import read_asked
from lowrise.errors import InputError, OutputError, RecipeError, TextError, reason
from lowrise.files import writing
from lowrise.files.sealed import write_state
from lowrise.files.siblings import sibling
from lowrise.heal.pairs import ram_limit
from lowrise.measure.tasks import load_tasks
from lowrise.model.source import OpenModel
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.context import Run
from lowrise.pipeline.cut_and_heal import check_other_dense, check_texts
from lowrise.pipeline.estimating import Known, known_of, said
from lowrise.pipeline.evaluating import check_tasks
from lowrise.pipeline.opening import check_depth, check_wishes, evaluation_texts, open_from, windows_or_sentences
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.results import Estimate
from lowrise.settings import Heal
from lowrise.sizes import layers_to_remove


def prepare(folder: Path, asked: Path, progress: Reporter) -> None:
    """Check model, sizes and texts; make the tokens that are not there yet; write prepared.json.

    Rows whose criteria look at the same kind and number of tokens share one file. Raises InputError for a row that can
    never be, unless the comparison was begun with it, and for a model that changed since the first time.
    """
    question = read_asked(asked)
    try:
        recipes = [Recipe(**recipe) for recipe in question["rows"].values()]
    except ValidationError as error:
        raise OutputError(asked, "settings of a comparison", reason(error), "begin anew with --force") from error
    first = recipes[0]
    ram_limit(first.max_ram)
    check_depth(first, [recipe.remove for recipe in recipes])
    for recipe in recipes:
        if recipe.heal is not None:
            check_other_dense(recipe, recipe.heal)
    tasks = load_tasks(first.tasks, first.task_dir, first.limit, first.fewshot, progress)
    clock = Clock(progress)
    with clock.stage("open"):
        opened = open_from(first, beside=folder)
    check_tasks(tasks, opened, first.bos)
    record = opened.record.model_dump()
    before = weights_of(folder)
    if before is not None and before != record["sha256"]:
        expected = f"the model it was begun with, sha256 {before[:16]}"
        found = f"sha256 {record['sha256'][:16]} in {opened.record.source}"
        raise OutputError(folder, expected, found, "choose another --out, or begin anew with --force")
    removed = _sizes(list(dict.fromkeys(str(recipe.remove) for recipe in recipes)), len(opened.decoder))
    begun = read_question(folder / ASKED) if before is not None else None
    for title, recipe in zip(question["rows"], recipes, strict=True):
        if begun is None or title not in begun["rows"]:
            _check_row(recipe, opened, removed[str(recipe.remove)])
    evaluation_texts(first, opened)
    healed: list[Heal] = []
    for recipe in recipes:
        if recipe.heal is not None and recipe.heal not in healed:
            check_texts(recipe, recipe.heal, folder, opened)
            healed.append(recipe.heal)
    estimates = _foretell(recipes, opened, progress)
    for recipe in recipes:
        file = tokens_file(folder, recipe)
        if not _whole(file, progress):
            made = windows_or_sentences(Run(recipe, progress), opened)
            with writing(file):
                file.parent.mkdir(exist_ok=True)
                partial = sibling(file, "partial")
                store_tokens(made, partial)
                partial.replace(file)
    about = {"model": record, "layers": len(opened.decoder), "removed": removed, "asked": question}
    write_state(folder / PREPARED, {**about, "estimate": estimates, "seconds": clock.total()})


def _foretell(recipes: list[Recipe], opened: OpenModel, progress: Reporter) -> dict[str, float]:
    """Say what the comparison will take, which the process that waits for this one hears; seconds by step."""

    def made() -> tuple[Known, Estimate]:
        known = known_of(opened, "compare", healed_first(recipes), recipes[0].memory)
        return known, estimate_rows(recipes, known, keep=False)

    found = said(made, progress)
    return {} if found is None else found[1].by_stage()


def _check_row(recipe: Recipe, opened: OpenModel, net: int) -> None:
    """Raises RecipeError, naming preset and size, where `run` would refuse the row at once."""
    try:
        check_wishes(recipe, opened.decoder, net)
    except InputError as error:
        where = f"--presets {recipe.preset} --remove {recipe.remove}: {error.where}"
        raise RecipeError(where, error.expected, error.found, "leave out that preset or that size") from error


def _whole(file: Path, progress: Reporter) -> bool:
    """Whether tokens are there already, as they were stored; if not so, they are made anew."""
    if not file.exists():
        return False
    try:
        stored_tokens(str(file))
    except TextError as error:
        progress.warn(f"{file} is damaged: made anew ({error})")
        return False
    return True


def _sizes(asked: list[str], layers: int) -> dict[str, int]:
    """Layers to remove by how they were asked for. Raises RecipeError for a size out of range or given in two ways."""
    counts: dict[str, int] = {}
    for size in asked:
        count = layers_to_remove(size, layers)
        same = [other for other, number in counts.items() if number == count]
        if same:
            found = f"{same[0]} and {size}, both {count} of {layers} layers"
            raise RecipeError("--remove", "every size once", found, "leave one")
        counts[size] = count
    return counts
