"""`lowrise compare`: presets × sizes on one model. Every step is a process of its own; this one stays small.

What is finished lies on disk, so the same command goes on where an earlier one ended, however it ended.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from lowrise.called import called
from lowrise.compare.folder import (
    ASKED,
    PREPARED,
    WANTED,
    Row,
    dense_of,
    is_comparison,
    mend,
    mend_question,
    prepared_of,
)
from lowrise.compare.request import ComparisonRequest, ask, check_same, no_comparison, read_lists
from lowrise.compare.steps import finish_rows, measure_dense, prepare
from lowrise.errors import StepError
from lowrise.files import check_output, held, output_folder, write_file, writing
from lowrise.files.marks import is_empty
from lowrise.inputs import inputs_of
from lowrise.plan import ModelRecord
from lowrise.progress import Reporter
from lowrise.report import words
from lowrise.report.comparison import summarise, write_tables
from lowrise.report.comparison_curves import draw_comparison
from lowrise.report.comparison_page import comparison_page
from lowrise.report.folder import parse
from lowrise.results import Comparison, FailedRow

__all__ = ["ask", "check_place", "compare", "read_lists"]

called(__name__)


def compare(
    asked: ComparisonRequest, out: Path, force: bool, keep: bool, progress: Reporter, where: str = ""
) -> Comparison:
    """All rows that are not finished yet, then tables and pictures. Returns compare.json.

    where: the recipe file, if there is one. What is damaged in a folder that is there is named and made anew.
    Raises InputError for what cannot be done at all, before any row is begun; StepError where a preparing step fails,
    or every row.
    """
    began, inputs = time.monotonic(), [*inputs_of(asked.recipes[0]), where or None]
    check_place(out, force, inputs)
    with held(out):
        check_place(out, force, inputs)
        begun_before = out.exists() and not force
        if begun_before:
            mend_question(out, progress)
            check_same(out, asked)
            mend(out, progress)
        else:
            _begin(asked, out, force, progress)
        try:
            rows = _rows(asked, out)
            if begun_before and not (rows and all(row.finished for row in rows)):
                _check_again(asked, out, progress)
                rows = _rows(asked, out)
            measure_dense(asked, out, progress)
            expected = _expected(rows, asked, out)
            for _row in finish_rows(rows, keep, progress, expected):
                write_tables(_results(rows, out, asked), out)
        except SystemExit:
            progress.say(f"what is finished is kept in {out}; the same command goes on from there")
            raise
        results = _results(rows, out, asked)
        write_tables(results, out)
        with writing(out):
            draw_comparison(results, out)
        write_file(out / "compare.html", comparison_page(results))
    if not begun_before and (said := _estimated(out)):
        took = words.seconds(time.monotonic() - began)
        progress.say(f"took {took}, estimated {words.seconds(sum(said.values()))}")
    failed = [row for row in results.rows if isinstance(row, FailedRow)]
    if len(failed) == len(results.rows):
        raise StepError(f"{out}: all rows failed, the first because of this: {failed[0].reason}", 1)
    return results


def check_place(out: Path, force: bool, inputs: list[str | None]) -> None:
    """Raises OutputError for a folder that is no comparison, and where none can be made."""
    there = os.path.lexists(out)
    if there and not is_comparison(out) and not (force and out.is_dir() and is_empty(out)):
        raise no_comparison(out)  # --force replaces a comparison, and nothing else
    if force or not there:
        check_output(out, force, inputs)


def _begin(asked: ComparisonRequest, out: Path, force: bool, progress: Reporter) -> None:
    """Make the folder, with everything checked and the calibration tokens in it, whole or not at all."""
    with output_folder(out, force) as folder:
        (folder / ASKED).write_text(asked.to_json(), encoding="utf-8")
        prepare(folder, folder / ASKED, progress)


def _check_again(asked: ComparisonRequest, out: Path, progress: Reporter) -> None:
    """In a folder that is there: that the model is still the same, and the tokens that added rows need."""
    wanted = out / WANTED
    try:
        write_file(wanted, asked.to_json())
        prepare(out, wanted, progress)
        wanted.replace(out / ASKED)
    finally:
        wanted.unlink(missing_ok=True)


def _rows(asked: ComparisonRequest, out: Path) -> list[Row]:
    """In their order; none while a size that was added has not been counted in layers."""
    removed = (prepared_of(out) or {"removed": {}})["removed"]
    if any(str(recipe.remove) not in removed for recipe in asked.recipes):
        return []
    return [Row(out, recipe, removed[str(recipe.remove)]) for recipe in asked.recipes]


def _estimated(out: Path) -> dict[str, float]:
    """Seconds by step, as they were said before it began; none where there was no estimate."""
    found = (prepared_of(out) or {}).get("estimate")
    said = found if isinstance(found, dict) else {}
    return {name: float(seconds) for name, seconds in said.items() if isinstance(seconds, int | float)}


def _expected(rows: list[Row], asked: ComparisonRequest, out: Path) -> dict[str, float]:
    """Seconds by the name of a row."""
    said = _estimated(out)
    titles = [f"{recipe.preset} at {recipe.remove}" for recipe in asked.recipes]
    return {row.name: said[title] for row, title in zip(rows, titles, strict=False) if title in said}


def _results(rows: list[Row], out: Path, asked: ComparisonRequest) -> Comparison:
    kept = {"text", "dataset", "seed", "length", "windows", "eval_text", "tasks", "task_dir", "limit", "fewshot"}
    settings = asked.recipes[0].model_dump(include=kept)
    prepared, dense = prepared_of(out), dense_of(out)
    if prepared is None or dense is None:
        raise StepError(f"{out}: what was prepared for its rows is gone", 1)
    model = parse(ModelRecord, prepared["model"], out / PREPARED)
    return summarise(model, prepared["layers"], dense, [row.about() for row in rows], settings)
