"""The charts of tasks and speed, dense beside compressed."""

from __future__ import annotations

import math

from lowrise.report.charts import COMPRESSED, DENSE, REMOVED, REPLACED, Chart, canvas, finish, hover, rule
from lowrise.report.folder import Contents
from lowrise.report.scores import scores, timings


def tasks_chart(contents: Contents) -> Chart | None:
    """The main score of each task for both models, with one standard error either way, and chance."""
    rows = [row for row in scores(contents) if row.dense is not None and row.is_share]
    if not rows:
        return None
    names = [row.task for row in rows][::-1]
    made = canvas("score, %", "", height=100 + 36 * len(names), y_range=names)
    made.xgrid.visible, made.ygrid.visible = True, False
    marks = []
    for label, colour, shift, marker in (("dense", DENSE, 0.14, "square"), ("compressed", COMPRESSED, -0.14, "circle")):
        values = [100 * getattr(row, label) for row in rows]
        errors = [100 * (getattr(row, f"{label}_error") or 0) for row in rows]
        source = {
            "x": values,
            "y": [(row.task, shift) for row in rows],
            "low": [value - error for value, error in zip(values, errors, strict=True)],
            "high": [value + error for value, error in zip(values, errors, strict=True)],
            "error": errors,
            "task": [row.task for row in rows],
            "label": [label] * len(rows),
        }
        made.segment("low", "y", "high", "y", source=source, color=colour, line_width=3, alpha=0.45)
        marks.append(made.scatter("x", "y", source=source, size=10, color=colour, marker=marker, legend_label=label))
    chances = [row for row in rows if row.chance is not None]
    if chances:
        made.scatter(
            [100 * (row.chance or 0) for row in chances], [row.task for row in chances], marker="dash",
            angle=math.pi / 2, size=20, color=REMOVED, line_width=2, legend_label="chance",
        )  # fmt: skip
    hover(made, marks, [("", "@task, @label"), ("score", "@x{0.0}% ± @error{0.0}")])
    sentence = "Bars are one standard error either way; the upright mark is what guessing scores."
    return finish(made, "tasks", "What it still knows", sentence)


def speed_chart(contents: Contents) -> Chart | None:
    """Tokens a second, compressed over dense, with the ideal beside it."""
    rows = [timing for timing in timings(contents) if timing.rate]
    if not rows:
        return None
    names = [row.name for row in rows][::-1]
    made = canvas("times the dense model's tokens a second", "", height=110 + 44 * len(names), y_range=names)
    made.xgrid.visible, made.ygrid.visible = True, False
    made.x_range.start = 0
    source = {
        "y": [row.name for row in rows],
        "ratio": [row.ratio for row in rows],
        "dense": [row.dense for row in rows],
        "compressed": [row.compressed for row in rows],
    }
    bars = made.hbar(
        y="y", right="ratio", source=source, height=0.5, color=COMPRESSED, alpha=0.9, legend_label="measured"
    )
    ideals = [row for row in rows if row.ideal is not None]
    if ideals:
        made.scatter([row.ideal for row in ideals], [row.name for row in ideals], marker="diamond", size=13,
                     color=REPLACED, legend_label="ideal")  # fmt: skip
    rule(made, 1.0, DENSE, upright=True)
    rows_shown = [("", "@y"), ("ratio", "×@ratio{0.00}"), ("dense", "@dense{0,0} tokens/s")]
    hover(made, [bars], [*rows_shown, ("compressed", "@compressed{0,0} tokens/s")])
    return finish(made, "speed", "How much faster", "The dashed line is the dense model.")
