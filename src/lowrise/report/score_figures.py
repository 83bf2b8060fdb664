"""The charts of tasks and speed, dense beside compressed."""

from __future__ import annotations

from lowrise.report.charts import COMPRESSED, DENSE, REMOVED, REPLACED, Axis, Bars, Chart, Points, Rule
from lowrise.report.folder import Contents
from lowrise.report.scores import scores, timings


def tasks_chart(contents: Contents) -> Chart | None:
    """The main score of each task for both models, with one standard error either way, and chance."""
    rows = [row for row in scores(contents) if row.dense is not None and row.is_share]
    if not rows:
        return None
    names = tuple(row.task for row in rows)
    marks = []
    for label, colour, shift, marker in (("dense", DENSE, 0.14, "square"), ("compressed", COMPRESSED, -0.14, "circle")):
        values = [100 * getattr(row, label) for row in rows]
        errors = [100 * (getattr(row, f"{label}_error") or 0) for row in rows]
        marks.append(
            Points(
                label=label, x=values, y=names, colour=colour, marker=marker, size=10, dash=None, shift=shift,
                intervals=[(value - error, value + error) for value, error in zip(values, errors, strict=True)],
                columns={"error": errors, "task": names},
            )
        )  # fmt: skip
    guessed = {row.task: 100 * row.chance for row in rows if row.chance is not None}
    if guessed:
        marks.append(
            Points(
                label="chance", x=[*guessed.values()], y=[*guessed], colour=REMOVED, marker="dash", size=20, dash=None,
                hover=False,
            )
        )  # fmt: skip
    return Chart(
        id="tasks",
        title="What it still knows",
        sentence="Bars are one standard error either way; the upright mark is what guessing scores.",
        x=Axis("score, %"),
        y=Axis("", names=names[::-1]),
        marks=marks,
        hover=[("", "@task, @label"), ("score", "@x{0.0}% ± @error{0.0}")],
        height=100 + 36 * len(names),
    )


def speed_chart(contents: Contents) -> Chart | None:
    """Tokens a second, compressed over dense, with the ideal beside it."""
    rows = [timing for timing in timings(contents) if timing.rate]
    if not rows:
        return None
    names = tuple(row.name for row in rows)
    rates = {"dense": [row.dense for row in rows], "compressed": [row.compressed for row in rows]}
    marks: list[Bars | Points] = [
        Bars(label="measured", names=names, values=[row.ratio for row in rows], colour=COMPRESSED, columns=rates)
    ]
    ideals = {row.name: row.ideal for row in rows if row.ideal is not None}
    if ideals:
        marks.append(
            Points(
                label="ideal", x=[*ideals.values()], y=[*ideals], colour=REPLACED, marker="diamond", size=13, dash=None,
                hover=False,
            )
        )  # fmt: skip
    return Chart(
        id="speed",
        title="How much faster",
        sentence="The dashed line is the dense model.",
        x=Axis("times the dense model's tokens a second", low=0),
        y=Axis("", names=names[::-1]),
        marks=marks,
        rules=[Rule(1.0, DENSE, upright=True)],
        hover=[
            ("", "@y"),
            ("ratio", "×@x{0.00}"),
            ("dense", "@dense{0,0} tokens/s"),
            ("compressed", "@compressed{0,0} tokens/s"),
        ],
        height=110 + 44 * len(names),
    )
