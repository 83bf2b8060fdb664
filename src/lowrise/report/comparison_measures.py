"""What a comparison draws: each measure of quality, with the dense model's value and one value a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from lowrise.report import words
from lowrise.report.readings import known
from lowrise.results import Comparison, DoneRow, TaskScores

_DRAWN = 100.0  # times dense: what lies beyond would press all others flat, on a logarithmic axis too


@dataclass(frozen=True)
class Measure:
    """values: by row name. intervals: (low, high) by row name where known. chance: of guessing, where known.

    scale: (lowest, highest) to draw, where not all is drawn; beyond: the rows above it.
    """

    id: str
    title: str
    sentence: str
    dense: float
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    logarithmic: bool = False
    chance: float | None = None
    scale: tuple[float, float] | None = None
    beyond: tuple[str, ...] = ()


def measures(results: Comparison) -> list[Measure]:
    """Of compare.json: perplexity for each text, then accuracy and stability (arXiv 2403.19135, Fig 4, both halves) and
    what is retained of the dense scores (arXiv 2402.11187's figure over pruning ratios). Those without a value go."""
    rows = results.finished
    texts = list(dict.fromkeys(name for row in rows for name in row.perplexity_ratio))
    found = [_perplexity(rows, name, index) for index, name in enumerate(texts)]
    dense_accuracy = _mean_accuracy(results.dense.tasks)
    if dense_accuracy is not None:
        tasks = results.dense.tasks.values()
        chances = [task.chance for task in tasks if "acc" in task.metrics and task.chance is not None]
        values = _by_row(rows, lambda row: _mean_accuracy(row.tasks))
        counted = words.tasks(sum(task.score("acc") is not None for task in tasks), len(tasks))
        sentence = f"Mean over {counted}; the dashed lines are the dense model and chance."
        chance = fmean(chances) if chances else None
        found.append(Measure("accuracy", "Accuracy", sentence, dense_accuracy, values, {}, chance=chance))
    found.append(_retained(rows))
    sentence = "How far right stays right and wrong stays wrong, weighed by how sure the dense model was."
    found.append(Measure("stability", "Stability", sentence, 1.0, _by_row(rows, lambda row: row.stability), {}))
    return [measure for measure in found if measure.values]


def _perplexity(rows: list[DoneRow], text: str, index: int) -> Measure:
    values = _by_row(rows, lambda row: row.perplexity_ratio.get(text))
    shown = [1.0, *([value for value in values.values() if value <= _DRAWN] or values.values())]
    scale = (min(shown) / 1.15, max(shown) * 1.4)
    beyond = tuple(name for name, value in values.items() if value > scale[1])
    sentence = f"Times the dense model’s, on {text}; logarithmic, lower is better."
    return Measure(f"perplexity-{index}", "Perplexity", sentence, 1.0, values, {}, True, scale=scale, beyond=beyond)


def _retained(rows: list[DoneRow]) -> Measure:
    means = {row.name: row.retained for row in rows if row.retained is not None}
    values = {name: mean.ratio for name, mean in means.items() if mean.ratio is not None}
    intervals = {
        name: (mean.ratio_low, mean.ratio_high)
        for name, mean in means.items()
        if name in values and mean.ratio_low is not None and mean.ratio_high is not None
    }
    counted = {
        words.tasks(len(known({name: one.ratio for name, one in row.retained_tasks.items()})), len(row.tasks))
        for row in rows
        if row.name in values
    }
    sentence = f"Compressed over dense score, mean over {' or '.join(sorted(counted))}; bars are 95% intervals."
    return Measure("retained", "Task scores retained", sentence, 1.0, values, intervals)


def _mean_accuracy(tasks: dict[str, TaskScores]) -> float | None:
    scores = known({name: task.score("acc") for name, task in tasks.items()})
    return fmean(scores) if scores else None


def _by_row(rows: list[DoneRow], value: Callable[[DoneRow], float | None]) -> dict[str, float]:
    found = {row.name: value(row) for row in rows}
    return {name: one for name, one in found.items() if one is not None}
