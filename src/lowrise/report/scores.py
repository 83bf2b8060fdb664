"""What the cut cost, as rows: the tables of the page and the card, every number as people read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lowrise.recipe import COLLAPSED_RATIO
from lowrise.report import words
from lowrise.report.folder import Contents, Retained, Spread, Task


@dataclass(frozen=True)
class Row:
    """One line of the table of costs. bad: the number is an alarm."""

    name: str
    note: str
    dense: str
    compressed: str
    change: str
    bad: bool = False


@dataclass(frozen=True)
class Tile:
    """One of the large numbers at the top of the page."""

    name: str
    value: str
    note: str
    bad: bool = False


@dataclass(frozen=True)
class Score:
    """One metric of one task: values in [0, 1] with standard errors; dense is None where only one model was asked."""

    task: str
    metric: str
    n: int | None
    chance: float | None
    dense: float | None
    dense_error: float | None
    compressed: float
    compressed_error: float | None

    @property
    def note(self) -> str:
        return self.metric + (f", {self.n:,} questions" if self.n else "")


@dataclass(frozen=True)
class Timing:
    """One measured pace. rate: more is better (tokens a second); otherwise less is (seconds, bytes)."""

    name: str
    rate: bool
    dense: float
    compressed: float
    dense_text: str
    compressed_text: str
    ideal: float | None

    @property
    def ratio(self) -> float:
        return self.compressed / self.dense


def costs(contents: Contents) -> list[Row]:
    results, dense = contents.results, contents.results.dense
    rows = []
    for name, key, text in (
        ("layers", "layers", words.count),
        ("parameters", "parameters", words.count),
        ("of them embeddings", "parameters_embeddings", words.count),
        (f"weights, {results.dtype}", "bytes", words.megabytes),
    ):
        before, after = getattr(dense, key, None), getattr(results, key)
        change = words.percent(after / before) if before else ""
        rows.append(Row(name, "", text(before) if before is not None else "", text(after), change))
    for name, value in results.perplexity.items():
        old = dense.perplexity.get(name) if dense is not None else None
        ratio = results.retained.perplexity_ratio.get(name)
        note = f"{name}, {value.windows:,} windows of {value.length:,} tokens"
        change = words.ratio(ratio) if ratio is not None else ""
        before = words.decimal(old.value) if old is not None else ""
        rows.append(Row("perplexity", note, before, words.decimal(value.value), change, is_collapse(ratio)))
    mean = results.retained.tasks_mean
    if mean is not None and mean.ratio is not None:
        rows.append(Row("tasks", f"mean of {len(results.retained.tasks)}", "", "", kept(mean)))
        if mean.above_chance is not None:
            rows.append(Row("tasks, above chance", "", "", "", kept(mean, above_chance=True)))
    return rows


def tiles(contents: Contents) -> list[Tile]:
    plan, results = contents.plan, contents.results
    gone = plan.model.layers - plan.layers_after
    size = f"{words.short_count(plan.parameters_before)} → {words.short_count(plan.parameters_after)}"
    found = [
        Tile("Layers", f"{plan.model.layers} → {plan.layers_after}", f"{gone} gone"),
        Tile("Parameters kept", words.percent(plan.parameters_after / plan.parameters_before), size),
    ]
    ratios = results.retained.perplexity_ratio
    if ratios:
        worst = max(ratios, key=lambda name: ratios[name])
        note = f"on {worst}" + (f", the worst of {len(ratios)}" if len(ratios) > 1 else "")
        found.append(Tile("Perplexity", words.ratio(ratios[worst]), note, is_collapse(ratios[worst])))
    mean = results.retained.tasks_mean
    if mean is not None and mean.ratio is not None:
        note = f"of the dense score, mean of {len(results.retained.tasks)}"
        found.append(Tile("Tasks keep", words.percent(mean.ratio), note))
    writing = [timing for timing in timings(contents) if timing.name.startswith("writing")]
    if writing:
        ideal = f", ideal {words.ratio(writing[0].ideal)}" if writing[0].ideal is not None else ""
        found.append(Tile("Speed", words.ratio(writing[0].ratio), writing[0].name + ideal))
    if "total" in results.seconds:
        peak = results.memory.get("peak_resident_bytes")
        note = "to plan, make and measure" + (f", {words.megabytes(peak)} of memory" if peak else "")
        found.append(Tile("Took", words.seconds(results.seconds["total"]), note))
    return found


def scores(contents: Contents) -> list[Score]:
    """One row a task: its main metric, which is `acc_norm` if there, else `acc`, else the first by name."""
    dense = contents.results.dense.tasks if contents.results.dense is not None else {}
    rows = []
    for name, task in contents.results.tasks.items():
        metrics, before = task.metrics(), dense.get(name, Task()).metrics()
        metric = next((key for key in ("acc_norm", "acc") if key in metrics), min(metrics, default=None))
        if metric is not None:
            dense_value, dense_error = before.get(metric, (None, None))
            value, error = metrics[metric]
            rows.append(Score(name, metric, task.n, task.chance, dense_value, dense_error, value, error))
    return rows


def timings(contents: Contents) -> list[Timing]:
    """Prefill and decode rates by batch size, then the time to the first token, then memory."""
    speed = contents.results.speed
    if speed is None:
        return []
    found = []
    for kind, title in (("prefill", "reading"), ("decode", "writing")):
        before: dict[str, Spread] = getattr(speed.dense, kind)
        after: dict[str, Spread] = getattr(speed.compressed, kind)
        for batch in (batch for batch in before if batch in after):
            ideal = speed.ideal_of(kind, batch)
            found.append(_timing(f"{title}, batch {batch}", True, before[batch], after[batch], ideal))
    first = (speed.dense.first_token_seconds, speed.compressed.first_token_seconds)
    found.append(_timing("time to the first token", False, *first, None))
    for name, key in (("cache a token", "kv_bytes_per_token"), ("peak memory", "peak_bytes")):
        old, new = getattr(speed.dense, key), getattr(speed.compressed, key)
        if old and new:
            found.append(Timing(name, False, old, new, words.megabytes(old), words.megabytes(new), None))
    return [timing for timing in found if timing is not None]


def _timing(
    name: str, rate: bool, dense: Spread | None, compressed: Spread | None, ideal: float | None
) -> Timing | None:
    old, new = dense.value if dense else None, compressed.value if compressed else None
    if dense is None or compressed is None or not old or not new:
        return None
    write = words.count if rate else words.seconds
    return Timing(name, rate, old, new, _with_range(dense, write), _with_range(compressed, write), ideal)


def kept(share: Retained | None, *, above_chance: bool = False) -> str:
    """`92.3% [90.1–94.5]`; empty where it was not measured."""
    if share is None:
        return ""
    name = "above_chance" if above_chance else "ratio"
    value, low, high = getattr(share, name), getattr(share, f"{name}_low"), getattr(share, f"{name}_high")
    if value is None:
        return ""
    bounds = "" if low is None or high is None else f" [{words.bare_percent(low)}–{words.bare_percent(high)}]"
    return words.percent(value) + bounds


def is_collapse(ratio: float | None) -> bool:
    """The gate: from COLLAPSED_RATIO on, and for what is no number, the model counts as collapsed."""
    return ratio is not None and (not math.isfinite(ratio) or ratio >= COLLAPSED_RATIO)


def _with_range(spread: Spread, write: Any) -> str:
    """The median and, where it is known, the range around it."""
    assert spread.value is not None
    if spread.low is None or spread.high is None:
        return str(write(spread.value))
    return f"{write(spread.value)} [{write(spread.low)}–{write(spread.high)}]"
