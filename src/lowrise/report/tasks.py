"""Rows of the short table on tasks: scores, what was kept, stability."""

from __future__ import annotations

from collections.abc import Mapping

from lowrise.report import words
from lowrise.results import Results, TaskRetained, TaskScores


def task_rows(results: Results) -> list[tuple[str, str, str]]:
    """(what, dense, compressed): each task's metrics with standard errors, then what both models have in common."""
    rows = []
    before = results.dense.tasks if results.dense is not None else {}
    for name, task in results.tasks.items():
        for metric in task.metrics:
            kept = results.tasks_retained.get(name, TaskRetained())
            share = f" ({kept.ratio:.0%})" if kept.metric == metric and kept.ratio is not None else ""
            rows.append((f"{name}, {metric}", _score(before.get(name), metric), _score(task, metric) + share))
    asked, mean, by_task = len(results.tasks), results.tasks_mean, results.tasks_retained
    shares = (
        ("retained", mean.ratio, mean.ratio_low, mean.ratio_high, {name: one.ratio for name, one in by_task.items()}),
        ("retained above chance", mean.above_chance, mean.above_chance_low, mean.above_chance_high,
         {name: one.above_chance for name, one in by_task.items()}),
    )  # fmt: skip
    for what, value, low, high, each in shares:
        if value is not None:
            counted = words.tasks(len(known(each)), asked)
            rows.append((f"{what}, mean of {counted}", "", share_with_interval(value, low, high)))
    for what, found in (("stability", results.stability), ("same answers", results.agreement)):
        values = known(found)
        if values:
            rows.append((f"{what}, mean of {words.tasks(len(values), asked)}", "", f"{sum(values) / len(values):.1%}"))
    return rows


def _score(task: TaskScores | None, metric: str) -> str:
    value = None if task is None else task.score(metric)
    if task is None or value is None:
        return ""
    error = task.error(metric)
    return f"{value:.4g}" + (f" ±{error:.2g}" if error is not None else "")


def share_with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A retained share with its 95% interval, as far as either exists: what has no value is null in the results."""
    if value is None:
        return ""
    return f"{value:.1%}" + ("" if low is None else f" ({low:.0%} to {high:.0%})")


def known(values: Mapping[str, float | None]) -> list[float]:
    """The values by task that exist."""
    return [value for value in values.values() if value is not None]
