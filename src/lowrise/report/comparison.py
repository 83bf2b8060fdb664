"""A comparison as one table: in the terminal, as Markdown, as CSV, and its figures as JSON."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lowrise.errors import printable
from lowrise.files import write_file
from lowrise.plan import ModelRecord, Plan
from lowrise.quality import collapsed_on
from lowrise.report import numbers
from lowrise.report.numbers import Number, times
from lowrise.report.readings import Reading, known, peak_until_written, seconds_to_compress
from lowrise.results import (
    Collapse,
    ComingRow,
    Comparison,
    DoneRow,
    FailedRow,
    MeasuredModel,
    Results,
    TaskScores,
)


@dataclass(frozen=True)
class RowState:
    """A row of a comparison as it stands. results, plan: of one that is done; reason: why one failed."""

    name: str
    preset: str
    removed: int
    loads_plainly: bool
    status: Literal["done", "failed", "to come"] = "to come"
    seconds: float = 0.0
    reason: str = ""
    results: Results | None = None
    plan: Plan | None = None


def summarise(
    model: ModelRecord, layers: int, dense: Results, rows: list[RowState], settings: dict[str, Any]
) -> Comparison:
    """compare.json. model, layers: what the rows began with; dense: results of `lowrise measure`."""
    measured = {name: value for name, value in dense.given().items() if name in MeasuredModel.model_fields}
    return Comparison(
        model=model,
        layers=layers,
        settings=settings,
        dense=MeasuredModel(**measured),
        rows=[summarise_row(row, layers) for row in rows],
        versions=dense.versions,
    )


def summarise_row(row: RowState, layers: int) -> DoneRow | FailedRow | ComingRow:
    """One line of the table. What was not measured is not there; a row that failed has its `reason`."""
    line: dict[str, Any] = {
        "name": row.name,
        "preset": row.preset,
        "removed": row.removed,
        "status": row.status,
        "loads_plainly": row.loads_plainly,
        "removed_share": row.removed / layers,
    }
    if row.status == "to come":
        return ComingRow(**line)
    if row.status == "failed":
        return FailedRow(**line, reason=row.reason, seconds=row.seconds)
    results, plan = row.results, row.plan
    assert results is not None and results.retained is not None and plan is not None
    retained = results.retained
    new = {one.key: kept for one in numbers.NUMBERS if one.is_kept_by_rows and (kept := one.record(results))}
    steady = known(results.stability)
    collapse = _collapse(results, plan)
    return DoneRow(
        **line,
        layers=results.layers,
        parameters=results.parameters,
        parameters_kept=retained.parameters,
        perplexity={name: value.value for name, value in results.perplexity.items()},
        perplexity_ratio=retained.perplexity_ratio,
        tasks=results.tasks,
        retained=retained.tasks_mean,
        retained_tasks=retained.tasks,
        stability=fmean(steady) if steady else None,
        stability_tasks=results.stability,
        seconds_to_compress=seconds_to_compress(results),
        seconds=row.seconds,
        seconds_by_stage=results.seconds,
        peak_bytes=peak_until_written(results),
        collapsed=None if collapse is None else Collapse(text=collapse[0], ratio=collapse[1]),
        edits=plan.edits,
        calibration=plan.calibration,
        **({"numbers": new} if new else {}),
    )


def _collapse(results: Results, plan: Plan) -> tuple[str, float] | None:
    return collapsed_on(results.perplexity_ratio, plan.scores, healed=results.healing is not None)


def columns(results: Comparison) -> list[tuple[str, list[str]]]:
    """(heading, one cell a row); the dense model is the first row. Empty columns are left out."""
    rows = results.rows
    found = [
        ("preset", ["dense", *(row.preset for row in rows)]),
        ("layers removed", [f"0 of {results.layers}", *(f"{row.removed} of {results.layers}" for row in rows)]),
        *((heading, cells) for number in numbers.NUMBERS for heading, cells in _columns_of(number, results)),
        ("loads plainly", ["yes", *("yes" if row.loads_plainly else "no" for row in rows)]),
        ("note", ["", *(note(row) for row in rows)]),
    ]
    return [(heading, cells) for heading, cells in found if any(cells)]


def _columns_of(number: Number, results: Comparison) -> list[tuple[str, list[str]]]:
    """One column, or one for each text or whatever else its label names by {part}."""
    view = number.comparison
    if view is None:
        return []
    read = [{one.part: one for one in number.of_row(results, row)} if isinstance(row, DoneRow) else {}
            for row in results.rows]  # fmt: skip
    parts = dict.fromkeys([part for one in read for part in one] if "{part}" in view.label else [""])
    found = []
    for part in parts:
        mine = [one.get(part) for one in read]
        dense = next((one.dense for one in mine if one is not None and one.dense is not None), None)
        first = view.text(dense) or view.dense(results)
        cells = [first, *("" if one is None else view.cell(one) for one in mine)]
        found.append((view.name(Reading(part)), cells))
    return found


def note(row: DoneRow | FailedRow | ComingRow) -> str:
    """What a reader must not miss: why there are no numbers, or that they are those of a ruin."""
    if isinstance(row, FailedRow):
        return f"failed: {row.reason}"
    if isinstance(row, ComingRow):
        return "not run yet"
    return f"collapsed: {times(row.collapsed.ratio)} on {row.collapsed.text}" if row.collapsed is not None else ""


def accuracies(results: Comparison) -> list[tuple[str, list[str]]]:
    """The second table, a column a task: accuracy (else its first metric) ± standard error. Empty without tasks."""
    tasks = [results.dense.tasks, *(row.tasks if isinstance(row, DoneRow) else {} for row in results.rows)]
    names = list(dict.fromkeys(name for each in tasks for name in each))
    if not names:
        return []
    titles = ["dense", *(f"{row.preset}, {row.removed}" for row in results.rows)]
    return [("", titles), *((name, [_score(each.get(name)) for each in tasks]) for name in names)]


def row_line(row: RowState) -> str:
    """One finished row in words, for the progress."""
    if row.results is None or row.plan is None:
        return f"failed: {row.reason}"
    said = [f"perplexity {times(ratio)} on {name}" for name, ratio in row.results.perplexity_ratio.items()]
    if _collapse(row.results, row.plan) is not None:
        said.insert(0, "collapsed")
    if row.results.tasks_mean.ratio is not None:
        said.append(f"tasks {row.results.tasks_mean.ratio:.1%}")
    return ", ".join([*said, f"{row.seconds:,.0f} s"])


_INTERVAL = re.compile(r" \([^)]*\)")
_SHORT = {"layers removed": "removed", "loads plainly": "plain"}


def terminal_comparison(results: Comparison) -> Group:
    """The table in 80 columns, without intervals, and below it the notes, which would not fit in a column."""
    shown = [(heading, cells) for heading, cells in columns(results) if heading != "note"]
    texts = [heading for heading, _ in shown if heading.startswith("perplexity")]
    views = [number.comparison for number in numbers.NUMBERS if number.comparison is not None]
    brief = _SHORT | {view.label: view.short for view in views if view.short}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, (heading, _) in enumerate(shown):
        short = "perplexity" if texts == [heading] else brief.get(heading, heading)
        table.add_column(
            Text(printable(short)), justify="right" if index else "left", no_wrap=index == 0, overflow="fold"
        )
    for cells in zip(*(cells for _, cells in shown), strict=True):
        table.add_row(*(Text(printable(_INTERVAL.sub("", cell))) for cell in cells))
    notes = [Text(printable(f"{row.name}: {note(row)}")) for row in results.rows if note(row)]
    return Group(table, *notes)


def markdown_comparison(results: Comparison) -> str:
    """Both tables, and in a line what their figures mean."""
    parts = [_markdown(columns(results))]
    if accuracies(results):
        parts.append(_markdown(accuracies(results)))
    return "\n\n".join(parts) + "\n"


def csv_comparison(results: Comparison) -> str:
    """Plain numbers, one line a row; what was not measured is empty."""
    lines = [_flat(row) for row in results.rows]
    fields = list(dict.fromkeys(key for line in lines for key in line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def write_tables(results: Comparison, folder: Path) -> None:
    """compare.md, compare.csv and compare.json."""
    write_file(folder / "compare.md", markdown_comparison(results))
    write_file(folder / "compare.csv", csv_comparison(results))
    write_file(folder / "compare.json", results.to_json() + "\n")


def _flat(row: DoneRow | FailedRow | ComingRow) -> dict[str, Any]:
    plain = ("preset", "removed", "removed_share", "status", "layers", "parameters", "parameters_kept")
    line = {key: getattr(row, key, "") for key in plain}
    if isinstance(row, DoneRow):
        for name in row.perplexity:
            line[f"perplexity {name}"] = row.perplexity[name]
            line[f"perplexity ratio {name}"] = row.perplexity_ratio.get(name, "")
        for key, value in (row.retained.model_dump() if row.retained is not None else {}).items():
            line["retained" if key == "ratio" else f"retained {key.removeprefix('ratio_')}"] = value
        line["stability"] = row.stability
        for key, parts in row.numbers.items():
            line |= {f"{key} {part}".rstrip(): one.value for part, one in parts.items()}
        for name, scores in row.tasks.items():
            line |= {f"{name} {metric}": value for metric, value in scores.model_dump().items()}
            if name in row.stability_tasks:
                line[f"{name} stability"] = row.stability_tasks[name]
    else:
        line["stability"] = None
    rest = {key: getattr(row, key, "") for key in ("seconds_to_compress", "seconds", "peak_bytes", "loads_plainly")}
    return {**line, **rest, "note": note(row)}


def _markdown(table: list[tuple[str, list[str]]]) -> str:
    lines = ["| " + " | ".join(heading for heading, _ in table) + " |"]
    lines.append("|" + "|".join("---" if index == 0 else "---:" for index in range(len(table))) + "|")
    for cells in zip(*(cells for _, cells in table), strict=True):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _score(task: TaskScores | None) -> str:
    if task is None:
        return ""
    metric = "acc" if "acc" in task.metrics else next(name for name in task.metrics if f"{name}_stderr" in task.errors)
    error = task.error(metric)
    return _decimal(task.score(metric)) + ("" if error is None else f" ± {error:.3f}")


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def strong_headings(results: Comparison) -> list[str]:
    """Of the columns that a page shows in bold."""
    strong = [one for one in numbers.NUMBERS if one.comparison is not None and one.comparison.strong]
    return [heading for one in strong for heading, _ in _columns_of(one, results)]
