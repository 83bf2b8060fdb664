"""The charts of a comparison: every measure of quality against layers removed, and against the time that it took."""

from __future__ import annotations

from lowrise.report import words
from lowrise.report.charts import DENSE, MARKERS, SERIES, Axis, Chart, Points, Rule
from lowrise.report.comparison_measures import Measure
from lowrise.results import DoneRow


def against_depth(measure: Measure, rows: list[DoneRow]) -> Chart:
    """One line a preset, from the dense model at 0%."""
    marks, presets = [], _by_preset(measure, rows)
    for index, (preset, mine) in enumerate(presets):
        # beside each other, so that their intervals can be told apart
        aside = 0.35 * (index - (len(presets) - 1) / 2) if measure.intervals else 0.0
        values = [measure.dense, *(measure.values[row.name] for row in mine)]
        marks.append(
            Points(
                label=preset, x=[0, *(100 * row.removed_share + aside for row in mine)], y=values,
                colour=SERIES[index % len(SERIES)], marker=MARKERS[index % len(MARKERS)],
                intervals=[None, *(measure.intervals.get(row.name) for row in mine)],
                columns={
                    "removed": [0, *(row.removed for row in mine)],
                    "shown": [shown_value(measure, value) for value in values],
                },
            )
        )  # fmt: skip
    return Chart(
        id=f"depth-{measure.id}",
        title=measure.title,
        sentence=measure.sentence + _off_the_top(measure),
        x=Axis("share of layers removed, %"),
        y=_scale(measure),
        marks=marks,
        rules=[
            Rule(measure.dense, DENSE, "dense"),
            *([] if measure.chance is None else [Rule(measure.chance, DENSE, "chance")]),
        ],
        hover=[("", "@label"), ("layers removed", "@removed"), (_axis(measure), "@shown")],
        height=320,
    )


def against_time(measure: Measure, rows: list[DoneRow]) -> Chart:
    """One point a row, beside it the layers removed where nothing can be hovered over."""
    marks = []
    for index, (preset, mine) in enumerate(_by_preset(measure, rows)):
        values = [measure.values[row.name] for row in mine]
        seconds = [max(row.seconds_to_compress, 0.01) for row in mine]  # `tail` takes no time, the axis no zero
        marks.append(
            Points(
                label=preset, x=seconds, y=values, colour=SERIES[index % len(SERIES)],
                marker=MARKERS[index % len(MARKERS)], dash="dotted", width=1, size=9,
                columns={
                    "removed": [row.removed for row in mine],
                    "shown": [shown_value(measure, value) for value in values],
                    "took": [words.seconds(value) for value in seconds],
                },
                notes=[str(row.removed) for row in mine],
            )
        )  # fmt: skip
    sentence = "Choosing, editing and repairing; opening, writing and measuring are left out. Better is "
    sentence += "further left and " + ("lower." if measure.logarithmic else "higher.") + _off_the_top(measure)
    return Chart(
        id=f"time-{measure.id}",
        title=f"{measure.title} and time",
        sentence=sentence,
        x=Axis("seconds to compress", log=True),
        y=_scale(measure),
        marks=marks,
        rules=[Rule(measure.dense, DENSE, "dense")],
        hover=[("", "@label"), ("layers removed", "@removed"), (_axis(measure), "@shown"), ("took", "@took")],
        height=320,
    )


def _by_preset(measure: Measure, rows: list[DoneRow]) -> list[tuple[str, list[DoneRow]]]:
    """Every preset with its rows that have a value, by size; a preset keeps its place, so its colour, in all charts."""
    order = dict.fromkeys(row.preset for row in rows)
    return [
        (preset, sorted((row for row in rows if row.preset == preset and row.name in measure.values),
                        key=lambda row: row.removed))
        for preset in order
    ]  # fmt: skip


def _scale(measure: Measure) -> Axis:
    low, high = measure.scale if measure.logarithmic and measure.scale is not None else (None, None)
    return Axis(_axis(measure), log=measure.logarithmic, low=low, high=high)


def _off_the_top(measure: Measure) -> str:
    gone = [f"{name} ({words.ratio(measure.values[name])})" for name in measure.beyond]
    return f" Beyond the top: {words.listed(gone)}." if gone else ""


def _axis(measure: Measure) -> str:
    return f"{measure.title.lower()}{', times dense' if measure.logarithmic else ''}"


def shown_value(measure: Measure, value: float) -> str:
    """As the page writes it."""
    return words.ratio(value) if measure.logarithmic else words.percent(value)
