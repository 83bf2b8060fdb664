"""How every number is read from results, or from a row of a comparison: what `numbers.py` draws its rows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowrise.report import words
from lowrise.results import Comparison, DoneRow, Rate, Results, Spread, TaskRetained, TaskScores

# Stages of a run that are the method: choosing, editing, repairing, healing. Opening, writing, measuring are not.
COMPRESSING = ("observe", "search", "pairs", "training", "repair", "tokens", "teacher", "healing")


@dataclass(frozen=True)
class Value:
    """low, high: its quartiles or its 95% interval. error: its standard error. ideal: what a ratio could have been."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    ideal: float | None = None


@dataclass(frozen=True)
class Reading:
    """A number as found. part: the text, metric or batch that it is of, if there are several.

    kept: what it is of the dense model's. counted of asked tasks: what a mean is over. note: on what it was measured.
    """

    part: str = ""
    dense: Value | None = None
    value: Value | None = None
    kept: Value | None = None
    counted: int = 0
    asked: int = 0
    note: str = ""

    @property
    def tasks(self) -> str:
        return words.tasks(self.counted, self.asked)

    @property
    def some_tasks(self) -> str:
        """`, 2 of 4 tasks` where only these have a value; nothing where all have one, or none."""
        return f", {self.tasks}" if 0 < self.counted < self.asked else ""


def known(values: Mapping[str, float | None]) -> list[float]:
    """The values by task that exist."""
    return [value for value in values.values() if value is not None]


def size(key: str, results: Results) -> list[Reading]:
    value, dense = getattr(results, key), getattr(results.dense, key, None)
    kept = Value(value / dense) if dense else None
    return [Reading("", None if dense is None else Value(dense), Value(value), kept)]


def perplexity(results: Results) -> list[Reading]:
    before = results.dense.perplexity if results.dense is not None else {}
    return [
        Reading(
            name,
            Value(before[name].value) if name in before else None,
            Value(found.value),
            Value(results.perplexity_ratio[name]) if name in results.perplexity_ratio else None,
            note=f"{found.windows:,} window{'s' if found.windows > 1 else ''} of {found.length:,} tokens",
        )
        for name, found in results.perplexity.items()
    ]


def perplexity_before_healing(results: Results) -> list[Reading]:
    """Of the cut model, beside the dense one; none of a model that was not healed."""
    before = results.dense.perplexity if results.dense is not None else {}
    found = []
    for name, start in (results.healing.before if results.healing is not None else {}).items():
        dense = Value(before[name].value) if name in before else None
        kept = Value(start.value / dense.value) if dense is not None and dense.value else None
        found.append(Reading(name, dense, Value(start.value), kept))
    return found


def compared_perplexity(comparison: Comparison, row: DoneRow) -> list[Reading]:
    before = comparison.dense.perplexity
    return [
        Reading(
            name,
            Value(before[name].value) if name in before else None,
            Value(row.perplexity[name]),
            Value(ratio),
        )
        for name, ratio in row.perplexity_ratio.items()
    ]


def task_metrics(results: Results) -> list[Reading]:
    found = []
    before = results.dense.tasks if results.dense is not None else {}
    for name, task in results.tasks.items():
        share = results.tasks_retained.get(name, TaskRetained())
        for metric in task.metrics:
            kept = Value(share.ratio) if share.metric == metric and share.ratio is not None else None
            dense = _scored(before[name], metric) if name in before else None
            found.append(Reading(f"{name}, {metric}", dense, _scored(task, metric), kept))
    return found


def _scored(task: TaskScores, metric: str) -> Value | None:
    score = task.score(metric)
    return None if score is None else Value(score, error=task.error(metric))


def generation(key: str, results: Results) -> list[Reading]:
    """A number of greedy continuations."""
    found = results.generation
    value = getattr(found, key, None)
    if found is None or value is None:
        return []
    dense = getattr(results.dense.generation, key, None) if results.dense is not None else None
    return [Reading("", _value(dense), Value(value), note=words.prompts(found.prompts, found.questions))]


def healed(results: Results) -> list[Reading]:
    """Tokens, of a model that was healed; 0 where the weights of the start were kept."""
    healing = results.healing
    if healing is None:
        return []
    kept = "" if healing.kept == healing.tokens else f"kept: after {healing.kept:,}"
    return [Reading(value=Value(healing.tokens if healing.kept else 0), note=kept)]


def draft_acceptance(results: Results) -> list[Reading]:
    """The share of what the model drafted for its dense one that was kept."""
    draft = results.draft
    if draft is None or draft.acceptance is None:
        return []
    return [Reading(value=Value(draft.acceptance), note=f"{draft.length} a round")]


def draft_equality(results: Results) -> list[Reading]:
    """The share of prompts behind which the same was written with the draft as without."""
    draft = results.draft
    return [] if draft is None else [Reading(value=Value(draft.equal / draft.prompts), note=f"{draft.prompts} prompts")]


def draft_rates(results: Results) -> list[Reading]:
    """Tokens a second, of the dense model alone and with the draft."""
    draft = results.draft
    if draft is None:
        return []
    alone, drafted = draft.dense_tokens_per_second, draft.tokens_per_second
    return [Reading("", Value(alone), Value(drafted), Value(drafted / alone))]


def draft_expected(results: Results) -> list[Reading]:
    """How many times faster the acceptance makes it, in theory, and with the best number of tokens a round."""
    draft = results.draft
    if draft is None or draft.expected is None or draft.best is None:
        return []
    rounds = {draft.length: draft.expected, draft.best_length: draft.best}
    return [Reading(f"{length} a round", value=Value(faster)) for length, faster in rounds.items()]


def draft_number(key: str, results: Results) -> list[Reading]:
    """A number of the draft, where it is known."""
    value = getattr(results.draft, key, None)
    return [] if value is None else [Reading(value=Value(value))]


def retained(mean: TaskRetained | None, tasks: Mapping[str, TaskRetained], asked: int) -> list[Reading]:
    if mean is None or mean.ratio is None:
        return []
    counted = len(known({name: task.ratio for name, task in tasks.items()}))
    return [Reading(kept=Value(mean.ratio, mean.ratio_low, mean.ratio_high), counted=counted, asked=asked)]


def above_chance(results: Results) -> list[Reading]:
    mean = results.tasks_mean
    if mean.above_chance is None:
        return []
    counted = len(known({name: task.above_chance for name, task in results.tasks_retained.items()}))
    kept = Value(mean.above_chance, mean.above_chance_low, mean.above_chance_high)
    return [Reading(kept=kept, counted=counted, asked=len(results.tasks))]


def mean(values: Mapping[str, float | None], asked: int) -> list[Reading]:
    there = known(values)
    return [Reading(value=Value(sum(there) / len(there)), counted=len(there), asked=asked)] if there else []


def compared_stability(_: Comparison, row: DoneRow) -> list[Reading]:
    if row.stability is None:
        return []
    return [Reading(value=Value(row.stability), counted=len(known(row.stability_tasks)), asked=len(row.tasks))]


def pace(kind: str, results: Results) -> list[Reading]:
    """Rates by batch size, the ratio and the ideal one."""
    speed = results.speed
    if speed is None:
        return []
    before: dict[str, Rate] = getattr(speed.dense, kind, {})
    found = []
    for batch, rate in getattr(speed.compressed, kind).items():
        ratio, ideal = speed.ratio.get(kind, {}).get(batch), speed.ideal.get(kind, {}).get(batch)
        best = None if ideal is None else ideal.ratio
        kept = None if ratio is None else Value(ratio.median, ratio.low, ratio.high, ideal=best)
        found.append(Reading(batch, _spread(before[batch]) if batch in before else None, _spread(rate), kept))
    return found


def of_speed(key: str, results: Results) -> list[Reading]:
    speed = results.speed
    if speed is None:
        return []
    before, after = (getattr(model, key, None) for model in (speed.dense, speed.compressed))
    return [Reading("", _value(before), _value(after))]


def seconds_to_compress(results: Results) -> float:
    """What the method took: opening, writing and measuring are left out."""
    return round(sum(results.seconds.get(stage, 0.0) for stage in COMPRESSING), 3)


def peak_until_written(results: Results) -> int:
    """Bytes: of the device if there is one, else resident. Of a run alone: raises KeyError for a measurement."""
    memory = results.memory
    return memory.get("peak_device_bytes_until_written", memory["peak_resident_bytes_until_written"])


def _value(one: Spread | float | None) -> Value | None:
    return _spread(one) if isinstance(one, Spread) else None if one is None else Value(one)


def _spread(one: Spread | Rate) -> Value:
    return Value(one.value, one.low, one.high)
