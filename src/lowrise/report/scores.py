"""What the cut cost, as rows: the tables of the page and the card, every number as people read it."""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.quality import is_collapse, worst_text
from lowrise.report import numbers, words
from lowrise.report.folder import Contents
from lowrise.report.readings import Value
from lowrise.results import Results, TaskRetained, TaskScores


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


def costs(results: Results) -> list[Row]:
    rows = []
    for number in numbers.NUMBERS:
        view = number.costs
        if view is not None:
            for reading in number.read(results):
                bad = number.alarm(reading.kept.value if reading.kept is not None else None)
                name = view.name(reading, results.dtype)
                texts = view.text(reading.dense), view.text(reading.value), view.kept_text(reading)
                rows.append(Row(name, view.about(reading), *texts, bad))
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
    found = []
    for number in numbers.NUMBERS:
        view = number.speed
        for reading in number.read(contents.results) if view is not None else ():
            before, after, kept = reading.dense, reading.value, reading.kept
            if view is None or before is None or after is None or not before.value or not after.value:
                continue
            ratio = kept.value if kept is not None and kept.value else after.value / before.value
            texts = view.text(before), view.text(after)
            ideal = kept.ideal if kept is not None else None
            found.append(Timing(view.name(reading), not number.lower, before.value, after.value, *texts, ratio, ideal))
    return found


def kept(share: TaskRetained | None, *, above_chance: bool = False) -> str:
    """`92.3% [90.1–94.5]`; empty where it was not measured."""
    if share is None:
        return ""
    name = "above_chance" if above_chance else "ratio"
    value, low, high = getattr(share, name), getattr(share, f"{name}_low"), getattr(share, f"{name}_high")
    return "" if value is None else numbers.bracketed(Value(value, low, high))
