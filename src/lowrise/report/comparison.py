"""A comparison as one table: in the terminal, as Markdown, as CSV, and its figures as JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
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
from lowrise.report import words
from lowrise.report.tasks import known, share_with_interval
from lowrise.results import (
    Collapse,
    ComingRow,
    Comparison,
    DoneRow,
    FailedRow,
    MeasuredModel,
    Results,
    TaskRetained,
    TaskScores,
)

# The stages of a run that are the method: choosing, editing, repairing. Opening, writing and measuring are not.
_COMPRESSING = ("observe", "search", "pairs", "training", "repair")


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
    retained, memory, stages = results.retained, results.memory, results.seconds
    steady = known(results.stability)
    collapse = collapsed_on(retained.perplexity_ratio, plan.scores)
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
        seconds_to_compress=round(sum(stages.get(stage, 0.0) for stage in _COMPRESSING), 3),
        seconds=row.seconds,
        seconds_by_stage=stages,
        peak_bytes=memory.get("peak_device_bytes_until_written", memory["peak_resident_bytes_until_written"]),
        collapsed=None if collapse is None else Collapse(text=collapse[0], ratio=collapse[1]),
        edits=plan.edits,
        calibration=plan.calibration,
    )


def columns(results: Comparison) -> list[tuple[str, list[str]]]:
    """(heading, one cell a row); the dense model is the first row. Empty columns are left out."""
    rows, layers, dense = results.rows, results.layers, results.dense
    texts = list(dict.fromkeys(name for row in results.finished for name in row.perplexity_ratio))
    tasks = any(row.tasks for row in results.finished)

    def cells(cell: Callable[[DoneRow], str]) -> list[str]:
        return [cell(row) if isinstance(row, DoneRow) else "" for row in rows]

    found = [
        ("preset", ["dense", *(row.preset for row in rows)]),
        ("layers removed", [f"0 of {layers}", *(f"{row.removed} of {layers}" for row in rows)]),
        ("parameters kept", ["100%", *cells(lambda row: f"{row.parameters_kept:.1%}")]),
    ]
    for name in texts:
        before = dense.perplexity.get(name)
        ratios = [_times(row.perplexity_ratio.get(name)) if isinstance(row, DoneRow) else "" for row in rows]
        found.append((f"perplexity, {name}", [f"{before.value:,.2f}" if before is not None else "", *ratios]))
    found.append(("tasks retained", ["100%" if tasks else "", *cells(_retained)]))
    found += [
        ("stability", ["1.000" if tasks else "", *cells(_stability)]),
        ("seconds to compress", ["", *cells(lambda row: f"{row.seconds_to_compress:,.1f}")]),
        ("peak memory", ["", *cells(lambda row: words.megabytes(row.peak_bytes))]),
        ("loads plainly", ["yes", *("yes" if row.loads_plainly else "no" for row in rows)]),
        ("note", ["", *(note(row) for row in rows)]),
    ]
    return [(heading, texts) for heading, texts in found if any(texts)]


def _retained(row: DoneRow) -> str:
    mean = row.retained if row.retained is not None else TaskRetained()
    shares = {name: task.ratio for name, task in row.retained_tasks.items()}
    return share_with_interval(mean.ratio, mean.ratio_low, mean.ratio_high) + _covered(shares, row)


def _stability(row: DoneRow) -> str:
    return _decimal(row.stability) + _covered(row.stability_tasks, row)


def _covered(values: dict[str, float | None], row: DoneRow) -> str:
    """`, 2 of 4 tasks` where only these have a value; nothing where all have one, or none."""
    counted, asked = len(known(values)), len(row.tasks)
    return f", {words.tasks(counted, asked)}" if 0 < counted < asked else ""


def note(row: DoneRow | FailedRow | ComingRow) -> str:
    """What a reader must not miss: why there are no numbers, or that they are those of a ruin."""
    if isinstance(row, FailedRow):
        return f"failed: {row.reason}"
    if isinstance(row, ComingRow):
        return "not run yet"
    return f"collapsed: {_times(row.collapsed.ratio)} on {row.collapsed.text}" if row.collapsed is not None else ""


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
    ratios = row.results.perplexity_ratio
    said = [f"perplexity {_times(ratio)} on {name}" for name, ratio in ratios.items()]
    if collapsed_on(ratios, row.plan.scores):
        said.insert(0, "collapsed")
    if row.results.tasks_mean.ratio is not None:
        said.append(f"tasks {row.results.tasks_mean.ratio:.1%}")
    return ", ".join([*said, f"{row.seconds:,.0f} s"])


_INTERVAL = re.compile(r" \([^)]*\)")
_SHORT = {
    "layers removed": "removed", "parameters kept": "kept", "tasks retained": "tasks", "seconds to compress": "seconds",
    "peak memory": "memory", "loads plainly": "plain",
}  # fmt: skip


def terminal_comparison(results: Comparison) -> Group:
    """The table in 80 columns, without intervals, and below it the notes, which would not fit in a column."""
    shown = [(heading, cells) for heading, cells in columns(results) if heading != "note"]
    texts = [heading for heading, _ in shown if heading.startswith("perplexity")]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, (heading, _) in enumerate(shown):
        short = "perplexity" if texts == [heading] else _SHORT.get(heading, heading)
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


def _times(value: float | None) -> str:
    return "" if value is None else f"×{value:,.2f}" if value < 1e4 else f"×{value:.1e}"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
