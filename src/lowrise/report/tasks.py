"""Rows of the short table on tasks: scores, what was kept, stability."""

from __future__ import annotations

from typing import Any

from lowrise.report import words

_COUNTS = ("n", "fewshot", "chance", "subtasks")


def task_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, dense, compressed): each task's metrics with standard errors, then what both models have in common."""
    rows = []
    before = results.get("dense", {}).get("tasks", {})
    for name, task in results.get("tasks", {}).items():
        for metric in (key for key in task if key not in _COUNTS and "_stderr" not in key):
            dense = _score(before.get(name, {}), metric)
            kept = results.get("retained", {}).get("tasks", {}).get(name, {})
            share = f" ({kept['ratio']:.0%})" if kept.get("metric") == metric and kept.get("ratio") is not None else ""
            rows.append((f"{name}, {metric}", dense, _score(task, metric) + share))
    asked, retained = len(results.get("tasks", {})), results.get("retained", {})
    mean = retained.get("tasks_mean", {})
    for what, key in (("retained", "ratio"), ("retained above chance", "above_chance")):
        if mean.get(key) is not None:
            counted = len(known({name: task.get(key) for name, task in retained["tasks"].items()}))
            rows.append((f"{what}, mean of {words.tasks(counted, asked)}", "", retained_share(mean, key)))
    for what, key in (("stability", "stability"), ("same answers", "agreement")):
        values = known(results.get(key, {}))
        if values:
            rows.append((f"{what}, mean of {words.tasks(len(values), asked)}", "", f"{sum(values) / len(values):.1%}"))
    return rows


def _score(task: dict[str, Any], metric: str) -> str:
    value, error = task.get(metric), task.get(f"{metric}_stderr")
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ±{error:.2g}" if error is not None else "")


def retained_share(mean: dict[str, Any] | None, key: str) -> str:
    """A retained share with its 95% interval, as far as either exists: what has no value is null in the results."""
    if mean is None or mean[key] is None:
        return ""
    low, high = mean[f"{key}_low"], mean[f"{key}_high"]
    return f"{mean[key]:.1%}" + ("" if low is None else f" ({low:.0%} to {high:.0%})")


def known(values: dict[str, float | None]) -> list[float]:
    """The values by task that exist."""
    return [value for value in values.values() if value is not None]
