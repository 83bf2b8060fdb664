"""The steps of a comparison in their order: prepare, measure the dense model, then one run a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lowrise.compare.child import run_step
from lowrise.compare.folder import DENSE, Row, dense_of
from lowrise.compare.request import ComparisonRequest
from lowrise.errors import OutputError, StepError
from lowrise.files import writing
from lowrise.files.sealed import write_state
from lowrise.files.siblings import remove
from lowrise.progress import Reporter
from lowrise.reading import read_json
from lowrise.recipe import Recipe
from lowrise.report.comparison import row_line

HEARD = ("compare: ", "estimate: ")  # how lines of a step begin that the whole comparison says
# Settings that decide what is measured and how a model is opened: those of `lowrise measure`.
_MEASURING = (
    "length",
    "bos",
    "windows",
    "task_dir",
    "limit",
    "fewshot",
    "dtype",
    "device",
    "memory",
    "trust_remote_code",
    "allow_pickle",
)


def prepare(folder: Path, asked: Path, progress: Reporter) -> None:
    """Raises StepError with the line of what cannot be done."""
    progress.say("checking model, sizes and texts; making the calibration tokens")
    log = folder / "prepare.txt"

    def heard(line: str) -> None:
        if line.startswith(HEARD):
            progress.say(line)

    _step(["prepare", str(folder), str(asked)], log, "preparing", progress, heard)
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("warning: "):
            progress.warn(line.removeprefix("warning: "))


def measure_dense(asked: ComparisonRequest, folder: Path, progress: Reporter) -> None:
    """Once for all rows."""
    if dense_of(folder) is not None:
        return
    progress.say("measuring the dense model")
    place = (folder / DENSE).parent
    with writing(place):
        remove(place)  # of an attempt that was interrupted
        place.mkdir()
    results = place / "results.json"
    arguments = ["measure", *_options(asked.recipes[0]), "--out", str(results)]
    _step(arguments, place / "log.txt", "the dense model", progress)
    write_state(folder / DENSE, read_json(results, OutputError, "a measurement", "measure anew", lenient=True))
    remove(results)


def finish_rows(rows: list[Row], keep: bool, progress: Reporter, expected: Mapping[str, float]) -> Iterator[Row]:
    """Run what is not finished, in order; each row as it ends. A row that fails is noted, and the next one begins.

    expected: seconds by the name of a row, as they were estimated.
    """
    for number, row in enumerate(rows, 1):
        if row.resume(keep):
            continue
        where = f"row {number} of {len(rows)}: {row.title}"
        progress.say(f"{where}{_time_left(rows, number, expected)}")
        row.end(run_step(row.begin(), row.log, where, progress), keep)
        progress.say(f"    {row_line(row.about())}")
        yield row


def _options(recipe: Recipe) -> list[str]:
    """The options of `lowrise measure` that this recipe stands for."""
    options = [str(recipe.model)]
    for path in recipe.eval_text:
        options += ["--text", path]
    if recipe.tasks:
        options += ["--tasks", ",".join(recipe.tasks)]
    for name in _MEASURING:
        value, option = getattr(recipe, name), f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif value not in (None, False):
            options += [option, str(value)]
    return options


def _step(
    arguments: list[str], log: Path, title: str, progress: Reporter, heard: Callable[[str], None] | None = None
) -> None:
    ended = run_step(arguments, log, title, progress, heard)
    if ended.status != 0:
        raise StepError(ended.reason, 1 if ended.killed else ended.status)


def _time_left(rows: list[Row], number: int, expected: Mapping[str, float]) -> str:
    """From the rows that are done: what the same preset took last, or the mean of all; and from the estimates, times
    what the rows that are done took of theirs.
    """
    done = [row for row in rows if row.seconds]
    if not done and not expected:
        return ""
    mean = sum(row.seconds for row in done) / max(1, len(done))
    last = {row.preset: row.seconds for row in done}
    planned = sum(expected.get(row.name, 0.0) for row in done)
    pace = sum(row.seconds for row in done) / planned if planned else 1.0
    guessed = {name: pace * seconds for name, seconds in expected.items()}
    left = sum(last.get(row.preset, guessed.get(row.name, mean)) for row in rows[number - 1 :] if not row.finished)
    return f" (about {left / 60:,.0f} min left)" if left >= 90 else f" (about {left:,.0f} s left)"
