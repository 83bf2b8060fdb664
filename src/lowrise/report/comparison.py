"""A comparison as one table: in the terminal, as Markdown, as CSV, and its figures as JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lowrise.errors import printable
from lowrise.files import write_file
from lowrise.quality import collapsed_on
from lowrise.report import words
from lowrise.report.tasks import known, retained_share

# The stages of a run that are the method: choosing, editing, repairing. Opening, writing and measuring are not.
_COMPRESSING = ("observe", "search", "pairs", "training", "repair")


def summarise(
    prepared: dict[str, Any], dense: dict[str, Any] | None, rows: list[dict[str, Any]], settings: dict[str, Any]
) -> dict[str, Any]:
    """compare.json. rows: what `Row.about` gives, in their order; dense: results of `lowrise measure`."""
    layers = int(prepared["layers"])
    return {
        "model": prepared["model"],
        "layers": layers,
        "settings": settings,
        "dense": {key: value for key, value in (dense or {}).items() if key not in ("versions", "seconds", "memory")},
        "rows": [summarise_row(row, layers) for row in rows],
        "versions": (dense or {}).get("versions", {}),
    }


def summarise_row(row: dict[str, Any], layers: int) -> dict[str, Any]:
    """One line of the table. What was not measured is not there; a row that failed has its `reason`."""
    line = {key: row[key] for key in ("name", "preset", "removed", "status", "loads_plainly")}
    line["removed_share"] = row["removed"] / layers
    if row["status"] != "done":
        return {**line, **{key: row[key] for key in ("reason", "seconds") if key in row}}
    results, plan = row["results"], row["plan"]
    retained, memory, stages = results["retained"], results["memory"], results["seconds"]
    stability = results.get("stability", {})
    steady = known(stability)
    collapse = collapsed_on(retained["perplexity_ratio"], plan["scores"])
    return {
        **line,
        "layers": results["layers"],
        "parameters": results["parameters"],
        "parameters_kept": retained["parameters"],
        "perplexity": {name: value["value"] for name, value in results["perplexity"].items()},
        "perplexity_ratio": retained["perplexity_ratio"],
        "tasks": results.get("tasks", {}),
        "retained": retained.get("tasks_mean"),
        "retained_tasks": retained.get("tasks", {}),
        "stability": fmean(steady) if steady else None,
        "stability_tasks": stability,
        "seconds_to_compress": round(sum(stages.get(stage, 0.0) for stage in _COMPRESSING), 3),
        "seconds": row["seconds"],
        "seconds_by_stage": stages,
        "peak_bytes": memory.get("peak_device_bytes_until_written", memory["peak_resident_bytes_until_written"]),
        "collapsed": None if collapse is None else {"text": collapse[0], "ratio": collapse[1]},
        "edits": plan["edits"],
        "calibration": plan["calibration"],
    }


def columns(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(heading, one cell a row); the dense model is the first row. Empty columns are left out."""
    rows = results["rows"]
    layers, dense = results["layers"], results["dense"]
    texts = list(dict.fromkeys(name for row in rows for name in row.get("perplexity_ratio", {})))
    tasks = list(dict.fromkeys(name for row in rows for name in row.get("tasks", {})))
    found = [
        ("preset", ["dense", *(row["preset"] for row in rows)]),
        ("layers removed", [f"0 of {layers}", *(f"{row['removed']} of {layers}" for row in rows)]),
        ("parameters kept", ["100%", *(_percent(row.get("parameters_kept")) for row in rows)]),
    ]
    for name in texts:
        before = dense.get("perplexity", {}).get(name)
        ratios = [_times(row.get("perplexity_ratio", {}).get(name)) for row in rows]
        found.append((f"perplexity, {name}", [f"{before['value']:,.2f}" if before else "", *ratios]))
    found.append(("tasks retained", ["100%" if tasks else "", *(_retained(row) for row in rows)]))
    found += [
        ("stability", ["1.000" if tasks else "", *(_stability(row) for row in rows)]),
        ("seconds to compress", ["", *(_seconds(row.get("seconds_to_compress")) for row in rows)]),
        ("peak memory", ["", *(words.megabytes(row["peak_bytes"]) if "peak_bytes" in row else "" for row in rows)]),
        ("loads plainly", ["yes", *("yes" if row["loads_plainly"] else "no" for row in rows)]),
        ("note", ["", *(note(row) for row in rows)]),
    ]
    return [(heading, cells) for heading, cells in found if any(cells)]


def _retained(row: dict[str, Any]) -> str:
    shares = {name: task.get("ratio") for name, task in row.get("retained_tasks", {}).items()}
    return retained_share(row.get("retained"), "ratio") + _covered(shares, row)


def _stability(row: dict[str, Any]) -> str:
    return _decimal(row.get("stability")) + _covered(row.get("stability_tasks", {}), row)


def _covered(values: dict[str, float | None], row: dict[str, Any]) -> str:
    """`, 2 of 4 tasks` where only these have a value; nothing where all have one, or none."""
    counted, asked = len(known(values)), len(row.get("tasks", {}))
    return f", {words.tasks(counted, asked)}" if 0 < counted < asked else ""


def note(row: dict[str, Any]) -> str:
    """What a reader must not miss: why there are no numbers, or that they are those of a ruin."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    if row["status"] != "done":
        return "not run yet"
    collapse = row["collapsed"]
    return f"collapsed: {_times(collapse['ratio'])} on {collapse['text']}" if collapse else ""


def accuracies(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The second table, a column a task: accuracy (else its first metric) ± standard error. Empty without tasks."""
    models = [results["dense"], *results["rows"]]
    names = list(dict.fromkeys(name for model in models for name in model.get("tasks", {})))
    if not names:
        return []
    titles = ["dense", *(f"{row['preset']}, {row['removed']}" for row in results["rows"])]
    return [("", titles), *((name, [_score(model.get("tasks", {}).get(name)) for model in models]) for name in names)]


def row_line(row: dict[str, Any]) -> str:
    """One finished row in words, for the progress."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    retained = row["results"]["retained"]
    said = [f"perplexity {_times(ratio)} on {name}" for name, ratio in retained["perplexity_ratio"].items()]
    if collapsed_on(retained["perplexity_ratio"], row["plan"]["scores"]):
        said.insert(0, "collapsed")
    kept = retained.get("tasks_mean", {}).get("ratio")
    if kept is not None:
        said.append(f"tasks {kept:.1%}")
    return ", ".join([*said, f"{row['seconds']:,.0f} s"])


_INTERVAL = re.compile(r" \([^)]*\)")
_SHORT = {
    "layers removed": "removed", "parameters kept": "kept", "tasks retained": "tasks", "seconds to compress": "seconds",
    "peak memory": "memory", "loads plainly": "plain",
}  # fmt: skip


def terminal_comparison(results: dict[str, Any]) -> Group:
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
    notes = [Text(printable(f"{row['name']}: {note(row)}")) for row in results["rows"] if note(row)]
    return Group(table, *notes)


def markdown_comparison(results: dict[str, Any]) -> str:
    """Both tables, and in a line what their figures mean."""
    parts = [_markdown(columns(results))]
    if accuracies(results):
        parts.append(_markdown(accuracies(results)))
    return "\n\n".join(parts) + "\n"


def csv_comparison(results: dict[str, Any]) -> str:
    """Plain numbers, one line a row; what was not measured is empty."""
    lines = [_flat(row) for row in results["rows"]]
    fields = list(dict.fromkeys(key for line in lines for key in line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def write_tables(results: dict[str, Any], folder: Path) -> None:
    """compare.md, compare.csv and compare.json."""
    write_file(folder / "compare.md", markdown_comparison(results))
    write_file(folder / "compare.csv", csv_comparison(results))
    write_file(folder / "compare.json", json.dumps(results, indent=2) + "\n")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    plain = ("preset", "removed", "removed_share", "status", "layers", "parameters", "parameters_kept")
    line = {key: row.get(key, "") for key in plain}
    for name in row.get("perplexity", {}):
        line[f"perplexity {name}"] = row["perplexity"][name]
        line[f"perplexity ratio {name}"] = row["perplexity_ratio"].get(name, "")
    for key, value in (row.get("retained") or {}).items():
        line["retained" if key == "ratio" else f"retained {key.removeprefix('ratio_')}"] = value
    line["stability"] = row.get("stability")
    for name, scores in row.get("tasks", {}).items():
        line |= {f"{name} {metric}": value for metric, value in scores.items()}
        if name in row["stability_tasks"]:
            line[f"{name} stability"] = row["stability_tasks"][name]
    rest = {key: row.get(key, "") for key in ("seconds_to_compress", "seconds", "peak_bytes", "loads_plainly")}
    return {**line, **rest, "note": note(row)}


def _markdown(table: list[tuple[str, list[str]]]) -> str:
    lines = ["| " + " | ".join(heading for heading, _ in table) + " |"]
    lines.append("|" + "|".join("---" if index == 0 else "---:" for index in range(len(table))) + "|")
    for cells in zip(*(cells for _, cells in table), strict=True):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _score(task: dict[str, Any] | None) -> str:
    if not task:
        return ""
    metric = "acc" if "acc" in task else next(key for key in task if f"{key}_stderr" in task)
    error = task.get(f"{metric}_stderr")
    return _decimal(task[metric]) + ("" if error is None else f" ± {error:.3f}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"×{value:,.2f}" if value < 1e4 else f"×{value:.1e}"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
