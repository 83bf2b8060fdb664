"""Which preset leads at one size: what a comparison's page says first."""

from __future__ import annotations

import math

from lowrise.report.comparison_measures import Measure
from lowrise.results import DoneRow


def best_row(rows: list[DoneRow], perplexity: Measure | None, retained: Measure | None) -> tuple[DoneRow, list[str]]:
    """(the row of the lowest perplexity among those that task scores do not rule out, the presets whose scores are
    higher and rule it out neither).

    Ruled out is what keeps less than the leader by more than both 95% intervals: a hundred items a task rarely tell
    more. Where only one of the two was measured it decides alone. rows: not empty, each in one of the measures.
    """
    likes, keeps = (one.values if one is not None else {} for one in (perplexity, retained))
    left = rows if retained is None else _not_ruled_out(rows, retained)
    best = min(left, key=lambda row: likes.get(row.name, math.inf))  # of equals the first: the highest score
    kept = keeps.get(best.name, math.inf)
    return best, [row.preset for row in left if keeps.get(row.name, -math.inf) > kept]


def _not_ruled_out(rows: list[DoneRow], retained: Measure) -> list[DoneRow]:
    """By score, highest first; all rows where none has a score."""
    scored = [row for row in rows if row.name in retained.values]
    if not scored:
        return rows
    scored.sort(key=lambda row: retained.values[row.name], reverse=True)
    low = _ends(retained, scored[0])[0]
    return [row for row in scored if _ends(retained, row)[1] >= low]


def _ends(measure: Measure, row: DoneRow) -> tuple[float, float]:
    """The interval of a row, or its value twice where there is none."""
    value = measure.values[row.name]
    return measure.intervals.get(row.name, (value, value))
