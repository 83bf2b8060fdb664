"""What the cut cost, as rows: the tables of the page and the card, every number as people read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lowrise.quality import is_collapse, worst_text
from lowrise.report import words
from lowrise.report.folder import Contents
from lowrise.results import Rate, Spread, TaskRetained, TaskScores


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
    """One metric of one task with standard errors; dense is None where only one model was asked."""

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

    @property
    def is_share(self) -> bool:
        """Whether it is a share of questions; a task may also measure a perplexity or the like."""
        return all(value is None or 0 <= value <= 1 for value in (self.dense, self.compressed))

    @property
    def dense_text(self) -> str:
        return "" if self.dense is None else self._text(self.dense, self.dense_error)

    @property
    def compressed_text(self) -> str:
        return self._text(self.compressed, self.compressed_error)

    def _text(self, value: float, error: float | None) -> str:
        if self.is_share:
            return words.percent(value) + ("" if error is None else f" ±{100 * error:.1f}")
        return words.four_digits(value) + ("" if error is None else f" ±{error:.2g}")


@dataclass(frozen=True)
class Timing:
    """One measured pace. rate: more is better (tokens a second); otherwise less is (seconds, bytes)."""

    name: str
    rate: bool
    dense: float
    compressed: float
    dense_text: str
    compressed_text: str
    ratio: float
    ideal: float | None = None


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
        ratio = results.perplexity_ratio.get(name)
        note = f"{name}, {value.windows:,} windows of {value.length:,} tokens"
        change = words.ratio(ratio) if ratio is not None else ""
        before = words.decimal(old.value) if old is not None else ""
        rows.append(Row("perplexity", note, before, words.decimal(value.value), change, is_collapse(ratio)))
    mean = results.tasks_mean
    if mean.ratio is not None:
        rows.append(Row("tasks", f"mean of {covered(contents, 'ratio')}", "", "", kept(mean)))
    if mean.above_chance is not None:
        rows.append(
            Row(
                "tasks, above chance",
                f"mean of {covered(contents, 'above_chance')}",
                "",
                "",
                kept(mean, above_chance=True),
            )
        )
    return rows


def tiles(contents: Contents) -> list[Tile]:
    plan, results = contents.plan, contents.results
    gone = plan.model.layers - plan.layers_after
    size = f"{words.short_count(plan.parameters_before)} → {words.short_count(plan.parameters_after)}"
    found = [
        Tile("Layers", f"{plan.model.layers} → {plan.layers_after}", f"{gone} gone"),
        Tile("Parameters kept", words.percent(plan.parameters_after / plan.parameters_before), size),
    ]
    ratios = results.perplexity_ratio
    if ratios:
        worst = worst_text(ratios)
        note = f"on {worst}" + (f", the worst of {len(ratios)}" if len(ratios) > 1 else "")
        found.append(Tile("Perplexity", words.ratio(ratios[worst]), note, is_collapse(ratios[worst])))
    mean = results.tasks_mean
    if mean.ratio is not None:
        note = f"of the dense score, mean of {covered(contents, 'ratio')}"
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


def covered(contents: Contents, share: str) -> str:
    """The tasks that have this share, `ratio` or `above_chance`, so those that its mean is over."""
    kept_of = contents.results.tasks_retained.values()
    return words.tasks(sum(getattr(one, share) is not None for one in kept_of), len(contents.results.tasks))


def scores(contents: Contents) -> list[Score]:
    """One row a task: the metric that its retained share is of, else `acc_norm`, `acc`, or the first by name."""
    dense = contents.results.dense.tasks if contents.results.dense is not None else {}
    rows = []
    for name, task in contents.results.tasks.items():
        metrics, before = _known(task), _known(dense.get(name))
        share = contents.results.tasks_retained.get(name)
        wanted = (share.metric if share is not None else None, "acc_norm", "acc")
        metric = next((key for key in wanted if key in metrics), min(metrics, default=None))
        if metric is not None:
            dense_value, dense_error = before.get(metric, (None, None))
            value, error = metrics[metric]
            rows.append(Score(name, metric, task.n, task.chance, dense_value, dense_error, value, error))
    return rows


def _known(task: TaskScores | None) -> dict[str, tuple[float, float | None]]:
    """The metrics that have a value, each with its standard error."""
    scored = {} if task is None else {name: (task.score(name), task.error(name)) for name in task.metrics}
    return {name: (value, error) for name, (value, error) in scored.items() if value is not None}


def timings(contents: Contents) -> list[Timing]:
    """Prefill and decode rates by batch size, then the time to the first token, then memory."""
    speed = contents.results.speed
    if speed is None or speed.dense is None:
        return []
    found: list[Timing | None] = []
    for kind, title in (("prefill", "reading"), ("decode", "writing")):
        before: dict[str, Rate] = getattr(speed.dense, kind)
        after: dict[str, Rate] = getattr(speed.compressed, kind)
        for batch in (batch for batch in before if batch in after):
            ratio = speed.ratio.get(kind, {}).get(batch)
            ideal = speed.ideal.get(kind, {}).get(batch)
            made = _timing(f"{title}, batch {batch}", before[batch], after[batch], words.rate)
            if made is not None:
                made = replace(made, rate=True, ideal=ideal.ratio if ideal is not None else None)
                found.append(replace(made, ratio=ratio.value) if ratio is not None and ratio.value else made)
    found.append(
        _timing(
            "time to the first token", speed.dense.first_token_seconds, speed.compressed.first_token_seconds,
            words.seconds,
        )
    )  # fmt: skip
    for name, key in (("cache a token", "kv_bytes_per_token"), ("peak memory", "peak_bytes")):
        old, new = (Spread(median=getattr(pace, key)) for pace in (speed.dense, speed.compressed))
        found.append(_timing(name, old, new, words.megabytes))
    return [timing for timing in found if timing is not None]


def _timing(name: str, dense: Spread | Rate, compressed: Spread | Rate, write: Callable[[float], str]) -> Timing | None:
    old, new = dense.value, compressed.value
    if not old or not new:
        return None
    return Timing(name, False, old, new, _with_range(dense, write), _with_range(compressed, write), new / old)


def kept(share: TaskRetained | None, *, above_chance: bool = False) -> str:
    """`92.3% [90.1–94.5]`; empty where it was not measured."""
    if share is None:
        return ""
    name = "above_chance" if above_chance else "ratio"
    value, low, high = getattr(share, name), getattr(share, f"{name}_low"), getattr(share, f"{name}_high")
    if value is None:
        return ""
    bounds = "" if low is None or high is None else f" [{words.bare_percent(low)}–{words.bare_percent(high)}]"
    return words.percent(value) + bounds


def _with_range(spread: Spread | Rate, write: Callable[[float], str]) -> str:
    """The median and, where it is known, the range around it."""
    if spread.low is None or spread.high is None:
        return write(spread.value)
    return f"{write(spread.value)} [{write(spread.low)}–{write(spread.high)}]"
