"""What a compressed model kept of the dense one's scores, with paired bootstrap intervals over samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lowrise.results import TaskRetained

Floats = NDArray[np.float64]

RESAMPLES = 2000
_SEED = 0
_CHUNK = 2**22  # counts held at once
_LEVEL = 95.0  # percent
_UNDEFINED = 0.025  # share of resamples without a value that an interval bears

_RATIO = ("ratio", "ratio_low", "ratio_high")
_ABOVE = ("above_chance", "above_chance_low", "above_chance_high")


class Kept(TypedDict):
    """Of results.json's `retained`, what tasks say."""

    tasks: dict[str, TaskRetained]
    tasks_mean: TaskRetained


@dataclass(frozen=True)
class Scores:
    """One task's scores (samples,), of both models on the same samples; weights (samples,) sum to one.

    strata (samples,): resampling stays within one, the subtask of a group.
    """

    metric: str
    dense: Floats
    compressed: Floats
    weights: Floats
    strata: NDArray[np.int64]
    chance: float | None


def retained(scores: dict[str, Scores]) -> Kept:
    """`tasks`: for each the ratio compressed / dense and (compressed − chance) / (dense − chance); `tasks_mean`.

    Intervals hold the middle 95% of 2,000 resamples of the samples, the same ones for both models (seeded). A value
    is None, with a reason, where the dense score is 0 or not above chance; an interval where that is so in more
    than 2.5% of the resamples.
    """
    tasks, ratios, aboves = {}, {}, {}
    for name, one in scores.items():
        dense, compressed = float(one.weights @ one.dense), float(one.weights @ one.compressed)
        drawn_dense, drawn_compressed = _resampled(one)
        ratios[name] = _Quotient(compressed, dense, drawn_compressed, drawn_dense, "the dense model scores 0")
        row = {"metric": one.metric, **ratios[name].row(_RATIO)}
        if one.chance is None:
            row |= {**dict.fromkeys(_ABOVE), "reason_above_chance": "the task has no chance level"}
        else:
            aboves[name] = _Quotient(
                compressed - one.chance,
                dense - one.chance,
                drawn_compressed - one.chance,
                drawn_dense - one.chance,
                "the dense model is not above chance",
            )
            row |= aboves[name].row(_ABOVE)
        tasks[name] = TaskRetained(**row)
    return {"tasks": tasks, "tasks_mean": TaskRetained(**_mean(ratios, _RATIO), **_mean(aboves, _ABOVE))}


@dataclass(frozen=True)
class _Quotient:
    """over / under, which counts only where under is above 0; drawn_*: (RESAMPLES,)."""

    over: float
    under: float
    drawn_over: Floats
    drawn_under: Floats
    reason: str

    @property
    def value(self) -> float | None:
        return self.over / self.under if self.under > 1e-12 else None

    @property
    def drawn(self) -> Floats:
        """NaN where there is no value."""
        there = self.drawn_under > 1e-12
        return np.where(there, self.drawn_over / np.where(there, self.drawn_under, 1.0), np.nan)

    def row(self, names: tuple[str, str, str]) -> dict[str, Any]:
        if self.value is None:
            return {**dict.fromkeys(names), f"reason_{names[0]}": self.reason}
        return _with_interval(self.value, self.drawn, names, f"{self.reason} in too many resamples")


def _mean(quotients: dict[str, _Quotient], names: tuple[str, str, str]) -> dict[str, Any]:
    """The mean over the tasks that have a value; a reason names those that have none."""
    there = {name: one for name, one in quotients.items() if one.value is not None}
    if not there:
        return {**dict.fromkeys(names), f"reason_{names[0]}": "no task has a value"}
    values = [one.over / one.under for one in there.values()]
    drawn = np.mean([one.drawn for one in there.values()], axis=0)
    row = _with_interval(sum(values) / len(values), drawn, names, "a task has none in too many resamples")
    left_out = [name for name in quotients if name not in there]
    if left_out:
        row[f"reason_{names[0]}"] = f"without {', '.join(left_out)}: no value there"
    return row


def _with_interval(value: float, drawn: Floats, names: tuple[str, str, str], reason: str) -> dict[str, Any]:
    undefined = np.isnan(drawn)
    if undefined.mean() > _UNDEFINED:
        return {names[0]: value, names[1]: None, names[2]: None, f"reason_{names[0]}_interval": reason}
    edge = (100 - _LEVEL) / 2
    low, high = np.percentile(drawn[~undefined], [edge, 100 - edge])
    return {names[0]: value, names[1]: float(low), names[2]: float(high)}


def _resampled(scores: Scores) -> tuple[Floats, Floats]:
    """Weighted means of both models over RESAMPLES draws with replacement, each (RESAMPLES,)."""
    generator = np.random.default_rng(_SEED)
    sums = np.zeros((RESAMPLES, 2))
    for stratum in np.unique(scores.strata):
        mine = scores.strata == stratum
        both = np.stack([scores.weights * scores.dense, scores.weights * scores.compressed], axis=1)[mine]
        n = len(both)
        step = max(1, _CHUNK // n)
        for start in range(0, RESAMPLES, step):
            rows = min(step, RESAMPLES - start)
            sums[start : start + rows] += generator.multinomial(n, np.full(n, 1 / n), size=rows) @ both
    return sums[:, 0], sums[:, 1]
