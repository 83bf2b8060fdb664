"""Which preset leads at one size: what a comparison's page says first."""

from __future__ import annotations

import math
from typing import Any

from lowrise.report.comparison_measures import Measure

Row = dict[str, Any]


def best_row(rows: list[Row], perplexity: Measure | None, retained: Measure | None) -> tuple[Row, list[str]]:
    """(the row of the lowest perplexity among those that task scores do not rule out, the presets whose scores are
    higher and rule it out neither).

    Ruled out is what keeps less than the leader by more than both 95% intervals: a hundred items a task rarely tell
    more. Where only one of the two was measured it decides alone. rows: not empty, each in one of the measures.
    """
    left = _not_ruled_out(rows, retained)
    known = [row for row in left if perplexity is not None and row["name"] in perplexity.values]
    best = min(known, key=lambda row: perplexity.values[row["name"]]) if perplexity is not None and known else left[0]
    if retained is None:
        return best, []
    kept = retained.values.get(best["name"], math.inf)
    return best, [row["preset"] for row in left if retained.values.get(row["name"], -math.inf) > kept]


def _not_ruled_out(rows: list[Row], retained: Measure | None) -> list[Row]:
    """By score, highest first; all rows where there are no scores."""
    scored = [row for row in rows if retained is not None and row["name"] in retained.values]
    if retained is None or not scored:
        return rows
    scored.sort(key=lambda row: retained.values[row["name"]], reverse=True)
    low = _ends(retained, scored[0])[0]
    return [row for row in scored if _ends(retained, row)[1] >= low]


def _ends(measure: Measure, row: Row) -> tuple[float, float]:
    """The interval of a row, or its value twice where there is none."""
    value = measure.values[row["name"]]
    return measure.intervals.get(row["name"], (value, value))
