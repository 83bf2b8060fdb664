"""Every number that is measured, one row each: how it is read from results, how it is shown, and where.

The terminal's table, the page's costs and speed, the model card and the comparison are drawn from `NUMBERS`. To add a
number is to add a row; a comparison keeps what has no key of its own in compare.json under `numbers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from lowrise.quality import is_collapse
from lowrise.report import readings, words
from lowrise.report.readings import Reading, Value
from lowrise.results import Comparison, DoneRow, NumberRecord, Results


@dataclass(frozen=True)
class View:
    """How one place shows a number. label, note: may say {part}, {tasks}, {note} and {dtype}.

    value: of one model. kept: compressed against dense; not shown without it.
    """

    label: str
    value: Callable[[Value], str] = lambda _: ""
    kept: Callable[[Value], str] | None = None
    note: str = ""

    def name(self, reading: Reading, dtype: str = "") -> str:
        return _filled(self.label, reading, dtype)

    def about(self, reading: Reading) -> str:
        return _filled(self.note, reading)

    def text(self, value: Value | None) -> str:
        return "" if value is None else self.value(value)

    def kept_text(self, reading: Reading) -> str:
        return "" if self.kept is None or reading.kept is None else self.kept(reading.kept)


@dataclass(frozen=True)
class Column(View):
    """How a comparison shows it: one column a part, what was kept of it or, without `kept`, the value itself.

    short: its heading in 80 columns. dense: the dense model's cell where it has no value to show. strong: in bold.
    """

    short: str = ""
    dense: Callable[[Comparison], str] = lambda _: ""
    strong: bool = False

    def cell(self, reading: Reading) -> str:
        text = self.text(reading.value) if self.kept is None else self.kept_text(reading)
        return text + reading.some_tasks if text else ""


@dataclass(frozen=True)
class Number:
    """read: from results. compared: from a row of a comparison; by itself from what the row keeps under its key.

    lower: whether less is better; None where that is no question. terminal, costs, speed, comparison: its places; the
    card has what the page has. alarm: whether what was kept is one of a ruin.
    """

    key: str
    read: Callable[[Results], Iterable[Reading]]
    lower: bool | None = None
    terminal: View | None = None
    costs: View | None = None
    speed: View | None = None
    comparison: Column | None = None
    compared: Callable[[Comparison, DoneRow], Iterable[Reading]] | None = None
    alarm: Callable[[float | None], bool] = field(default=lambda _: False)

    @property
    def is_kept_by_rows(self) -> bool:
        """Whether a comparison's rows keep it under its key."""
        return self.comparison is not None and self.compared is None

    def of_row(self, comparison: Comparison, row: DoneRow) -> list[Reading]:
        if self.compared is not None:
            return list(self.compared(comparison, row))
        kept = row.numbers.get(self.key, {})
        return [
            Reading(part, _known(record.dense), _known(record.value), _known(record.kept))
            for part, record in kept.items()
        ]

    def record(self, results: Results) -> dict[str, NumberRecord]:
        """For a row of a comparison, by part."""
        return {
            reading.part: NumberRecord(
                dense=reading.dense.value if reading.dense is not None else None,
                value=reading.value.value if reading.value is not None else None,
                kept=reading.kept.value if reading.kept is not None else None,
            )
            for reading in self.read(results)
        }


def everywhere(label: str, value: Callable[[float], str], kept: Callable[[float], str]) -> dict[str, View]:
    """The places of a number that looks the same in all of them."""
    view = View(label, plain(value), plain(kept))
    return {"terminal": view, "costs": view, "comparison": Column(label, plain(value))}


def plain(write: Callable[[float], str]) -> Callable[[Value], str]:
    """The value alone."""
    return lambda value: write(value.value)


def _known(value: float | None) -> Value | None:
    return None if value is None else Value(value)


def _filled(text: str, reading: Reading, dtype: str = "") -> str:
    for name, value in (("dtype", dtype), ("tasks", reading.tasks), ("note", reading.note), ("part", reading.part)):
        text = text.replace(f"{{{name}}}", value)  # the part last: a file's name may say {note}
    return text


def times(value: float) -> str:
    """In a table of many methods, some of them ruins."""
    return f"×{value:,.2f}" if value < 1e4 else f"×{value:.1e}"


def _with_error(value: Value) -> str:
    return f"{value.value:.4g}" + (f" ±{value.error:.2g}" if value.error is not None else "")


def _with_bounds(value: Value) -> str:
    return f"{value.value:.1%}" + ("" if value.low is None else f" ({value.low:.0%} to {value.high:.0%})")


def bracketed(value: Value) -> str:
    """`92.3% [90.1–94.5]`"""
    if value.low is None or value.high is None:
        return words.percent(value.value)
    return f"{words.percent(value.value)} [{words.bare_percent(value.low)}–{words.bare_percent(value.high)}]"


def _with_range(write: Callable[[float], str], value: Value) -> str:
    """The median and, where it is known, the range around it."""
    if value.low is None or value.high is None:
        return write(value.value)
    return f"{write(value.value)} [{write(value.low)}–{write(value.high)}]"


def _half_range(value: Value) -> str:
    if value.low is None or value.high is None:
        return ""
    return f" ±{(value.high - value.low) / 2 / value.value:.0%}"


def _with_half_range(value: Value) -> str:
    return f"{value.value:,.0f}{_half_range(value)}"


def _against_ideal(value: Value) -> str:
    ideal = "" if value.ideal is None else f", ideal ×{value.ideal:.2f}"
    return f"×{value.value:.2f}{_half_range(value)}{ideal}"


def _with_tasks(text: str, comparison: Comparison) -> str:
    """The dense model's own cell, where there are tasks."""
    return text if any(row.tasks for row in comparison.finished) else ""


_count, _bytes = plain(words.count), plain(words.megabytes)

NUMBERS: tuple[Number, ...] = (
    Number(
        "layers", partial(readings.size, "layers"), True,
        terminal=View("layers", _count),
        costs=View("layers", _count, plain(words.percent)),
    ),
    Number(
        "parameters", partial(readings.size, "parameters"), True,
        terminal=View("parameters", _count, plain(words.percent)),
        costs=View("parameters", _count, plain(words.percent)),
        comparison=Column("parameters kept", kept=plain(words.percent), short="kept", dense=lambda _: "100%"),
        compared=lambda _, row: [Reading(kept=Value(row.parameters_kept))],
    ),
    Number(
        "parameters_embeddings", partial(readings.size, "parameters_embeddings"), True,
        terminal=View("of them embeddings", _count),
        costs=View("of them embeddings", _count, plain(words.percent)),
    ),
    Number(
        "bytes", partial(readings.size, "bytes"), True,
        terminal=View("weights ({dtype})", _bytes),
        costs=View("weights, {dtype}", _bytes, plain(words.percent)),
    ),
    Number(
        "perplexity_before_healing", readings.perplexity_before_healing, True,
        costs=View("perplexity before healing", plain(words.decimal), plain(words.ratio), "{part}"),
    ),
    Number(
        "perplexity", readings.perplexity, True,
        terminal=View("perplexity, {part}", plain(words.decimal), plain(words.ratio)),
        costs=View("perplexity", plain(words.decimal), plain(words.ratio), "{part}, {note}"),
        comparison=Column("perplexity, {part}", plain(words.decimal), plain(times), strong=True),
        compared=readings.compared_perplexity,
        alarm=is_collapse,
    ),
    Number(
        "greedy_agreement", partial(readings.generation, "agreement"), False,
        terminal=View("same greedy tokens as dense", plain(words.percent)),
        costs=View("same greedy tokens as dense", plain(words.percent), note="{note}"),
        comparison=Column("same greedy tokens", plain(words.percent), short="same greedy"),
    ),
    Number(
        "tokens_until_difference", partial(readings.generation, "until_difference"), False,
        terminal=View("tokens until the first other one", plain("{:.1f}".format)),
        costs=View("tokens until the first other one", plain("{:.1f}".format), note="{note}"),
        comparison=Column("tokens until another", plain("{:.1f}".format), short="until other"),
    ),
    Number(
        "repetition", partial(readings.generation, "repetition"), True,
        terminal=View("repeated 4-grams", plain(words.percent)),
        costs=View("repeated 4-grams", plain(words.percent), note="{note}"),
        comparison=Column("repeated 4-grams", plain(words.percent), short="repeated"),
    ),
    Number(
        "tasks", readings.task_metrics, False,
        terminal=View("{part}", _with_error, plain(lambda share: f"{share:.0%}")),
    ),
    Number(
        "retained", lambda found: readings.retained(found.tasks_mean, found.tasks_retained, len(found.tasks)), False,
        terminal=View("retained, mean of {tasks}", kept=_with_bounds),
        costs=View("tasks", kept=bracketed, note="mean of {tasks}"),
        comparison=Column("tasks retained", kept=_with_bounds, short="tasks", strong=True,
                          dense=partial(_with_tasks, "100%")),
        compared=lambda _, row: readings.retained(row.retained, row.retained_tasks, len(row.tasks)),
    ),
    Number(
        "above_chance", readings.above_chance, False,
        terminal=View("retained above chance, mean of {tasks}", kept=_with_bounds),
        costs=View("tasks, above chance", kept=bracketed, note="mean of {tasks}"),
    ),
    Number(
        "stability", lambda found: readings.mean(found.stability, len(found.tasks)), False,
        terminal=View("stability, mean of {tasks}", plain(words.percent)),
        comparison=Column("stability", plain("{:.3f}".format), strong=True, dense=partial(_with_tasks, "1.000")),
        compared=readings.compared_stability,
    ),
    Number(
        "agreement", lambda found: readings.mean(found.agreement, len(found.tasks)), False,
        terminal=View("same answers, mean of {tasks}", plain(words.percent)),
    ),
    Number(
        "healed", readings.healed,
        terminal=View("tokens healed on", _count),
        costs=View("tokens healed on", _count, note="{note}"),
        comparison=Column("tokens healed on", _count, short="healed on"),
    ),
    Number(
        "seconds_to_compress", lambda found: [Reading(value=Value(readings.seconds_to_compress(found)))], True,
        comparison=Column("seconds to compress", plain("{:,.1f}".format), short="seconds"),
        compared=lambda _, row: [Reading(value=Value(row.seconds_to_compress))],
    ),
    Number(
        "peak_memory", lambda found: [Reading(value=Value(readings.peak_until_written(found)))], True,
        comparison=Column("peak memory", _bytes, short="memory"),
        compared=lambda _, row: [Reading(value=Value(row.peak_bytes))],
    ),
    Number(
        "prefill", partial(readings.pace, "prefill"), False,
        terminal=View("prefill, tokens/s, batch {part}", _with_half_range, _against_ideal),
        speed=View("reading, batch {part}", partial(_with_range, words.rate)),
    ),
    Number(
        "decode", partial(readings.pace, "decode"), False,
        terminal=View("decode, tokens/s, batch {part}", _with_half_range, _against_ideal),
        speed=View("writing, batch {part}", partial(_with_range, words.rate)),
    ),
    Number(
        "first_token_seconds", partial(readings.of_speed, "first_token_seconds"), True,
        terminal=View("first token, ms", plain(lambda seconds: f"{seconds * 1000:,.1f}")),
        speed=View("time to the first token", partial(_with_range, words.seconds)),
    ),
    Number(
        "kv_bytes_per_token", partial(readings.of_speed, "kv_bytes_per_token"), True,
        terminal=View("keys and values a token", plain("{:,} B".format)),
        speed=View("cache a token", _bytes),
    ),
    Number(
        "peak_bytes", partial(readings.of_speed, "peak_bytes"), True,
        terminal=View("memory while generating", _bytes),
        speed=View("peak memory", _bytes),
    ),
    Number(
        "draft_equality", readings.draft_equality, False,
        terminal=View("same text with the draft, of {note}", plain(words.percent)),
        costs=View("same text with the draft", plain(words.percent), note="{note}"),
    ),
    Number(
        "draft_acceptance", readings.draft_acceptance, False,
        terminal=View("drafted tokens accepted, {note}", plain(words.percent)),
        costs=View("drafted tokens accepted", plain(words.percent), note="{note}"),
    ),
    Number(
        "draft_rates", readings.draft_rates, False,
        terminal=View("dense tokens/s, alone and drafted", plain("{:,.1f}".format), plain(words.ratio)),
        costs=View("dense tokens/s, alone and drafted", plain("{:,.1f}".format), plain(words.ratio)),
    ),
    Number(
        "draft_expected", readings.draft_expected, False,
        terminal=View("faster by acceptance and cost, {part}", plain(words.ratio)),
        costs=View("faster by acceptance and cost", plain(words.ratio), note="{part}"),
    ),
    Number(
        "draft_cost", partial(readings.draft_number, "cost"), True,
        terminal=View("a drafted token costs, in dense ones", plain("{:.2f}".format)),
        costs=View("a drafted token costs, in dense ones", plain("{:.2f}".format)),
    ),
    Number(
        "draft_chance", partial(readings.draft_number, "chance"), False,
        terminal=View("to pay it must cost less than", plain("{:.2f}".format)),
        costs=View("to pay it must cost less than", plain("{:.2f}".format)),
    ),
    Number(
        "draft_layers", partial(readings.draft_number, "layers_break_even"),
        terminal=View("and so have layers, at most", _count),
        costs=View("and so have layers, at most", _count),
    ),
)  # fmt: skip
