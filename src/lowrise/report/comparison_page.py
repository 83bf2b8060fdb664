"""compare.html: a comparison as one self-contained page with values on hover."""

from __future__ import annotations

from typing import Any

from lowrise.quality import COLLAPSED_RATIO
from lowrise.report import words
from lowrise.report.charts import DENSE, MARKERS, SERIES, Chart, canvas, finish, hover, intervals, line, rule
from lowrise.report.comparison import accuracies, columns, note, strong_headings
from lowrise.report.comparison_best import best_row
from lowrise.report.comparison_measures import Measure, measures
from lowrise.report.document import render_page
from lowrise.report.scores import Tile
from lowrise.results import Comparison, DoneRow


def comparison_page(results: Comparison) -> str:
    """The page's HTML, from what compare.json holds."""
    rows = results.finished
    drawn, table = measures(results), columns(results)
    depth = {f"depth-{one.id}": _against_depth(one, rows) for one in drawn}
    time = {f"time-{one.id}": _against_time(one, rows) for one in drawn if one.id in _AGAINST_TIME}
    presets = list(dict.fromkeys(row.preset for row in results.rows))
    sizes = list(dict.fromkeys(row.removed for row in results.rows))
    name = results.model.source.rstrip("/").rpartition("/")[2]
    return render_page(
        "compare.html",
        title=f"{name}: {len(presets)} ways to take layers out",
        charts={**depth, **time},
        depth=list(depth.values()),
        time=list(time.values()),
        lead=f"{_listed(presets)}, at {_listed([str(size) for size in sizes])} of {results.layers} layers.",
        tiles=_tiles(results, sizes, drawn),
        notices=_notices(results),
        table=_shown(table),
        strong=strong_headings(results),
        ruined={index for index, row in enumerate(results.rows, 1) if isinstance(row, DoneRow) and row.collapsed},
        tasks=_shown(accuracies(results)),
        facts=_facts(results),
    )


_AGAINST_TIME = ("perplexity-0", "retained")


def _against_depth(measure: Measure, rows: list[DoneRow]) -> Chart:
    made = canvas("share of layers removed, %", _axis(measure), height=320, **_scale(measure))
    marks, presets = [], _by_preset(measure, rows)
    for index, (preset, mine) in enumerate(presets):
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        # beside each other, so that their intervals can be told apart
        aside = 0.35 * (index - (len(presets) - 1) / 2) if measure.intervals else 0.0
        places = {row.name: 100 * row.removed_share + aside for row in mine}
        values = [measure.values[row.name] for row in mine]
        removed = [0, *(row.removed for row in mine)]
        shown = [_text(measure, value) for value in (measure.dense, *values)]
        marks.append(line(made, [0, *places.values()], [measure.dense, *values], preset, colour, marker=marker,
                          removed=removed, shown=shown))  # fmt: skip
        known = [row for row in mine if row.name in measure.intervals]
        lows, highs = ([measure.intervals[row.name][end] for row in known] for end in (0, 1))
        intervals(made, [places[row.name] for row in known], lows, highs, colour)
    rule(made, measure.dense, DENSE)
    if measure.chance is not None:
        rule(made, measure.chance, DENSE)
    hover(made, marks, [("", "@label"), ("layers removed", "@removed"), (_axis(measure), "@shown")])
    return finish(made, f"depth-{measure.id}", measure.title, measure.sentence + _off_the_top(measure))


def _against_time(measure: Measure, rows: list[DoneRow]) -> Chart:
    made = canvas("seconds to compress", _axis(measure), height=320, x_axis_type="log", **_scale(measure))
    marks = []
    for index, (preset, mine) in enumerate(_by_preset(measure, rows)):
        values = [measure.values[row.name] for row in mine]
        seconds = [max(row.seconds_to_compress, 0.01) for row in mine]
        marks.append(line(made, seconds, values, preset, SERIES[index % len(SERIES)], dash="dotted", width=1, size=9,
                          marker=MARKERS[index % len(MARKERS)], removed=[row.removed for row in mine],
                          shown=[_text(measure, value) for value in values],
                          took=[words.seconds(value) for value in seconds]))  # fmt: skip
    rule(made, measure.dense, DENSE)
    rows_shown = [("", "@label"), ("layers removed", "@removed"), (_axis(measure), "@shown"), ("took", "@took")]
    hover(made, marks, rows_shown)
    sentence = "Choosing, editing and repairing; opening, writing and measuring are left out. Better is "
    sentence += "further left and " + ("lower." if measure.logarithmic else "higher.") + _off_the_top(measure)
    return finish(made, f"time-{measure.id}", f"{measure.title} and time", sentence)


def _by_preset(measure: Measure, rows: list[DoneRow]) -> list[tuple[str, list[DoneRow]]]:
    """Every preset with its rows that have a value, by size; a preset keeps its place, so its colour, in all charts."""
    order = dict.fromkeys(row.preset for row in rows)
    return [
        (preset, sorted((row for row in rows if row.preset == preset and row.name in measure.values),
                        key=lambda row: row.removed))
        for preset in order
    ]  # fmt: skip


def _scale(measure: Measure) -> dict[str, Any]:
    return {"y_axis_type": "log", "y_range": measure.scale} if measure.logarithmic else {}


def _off_the_top(measure: Measure) -> str:
    gone = [f"{name} ({words.ratio(measure.values[name])})" for name in measure.beyond]
    return f" Beyond the top: {_listed(gone)}." if gone else ""


def _axis(measure: Measure) -> str:
    return f"{measure.title.lower()}{', times dense' if measure.logarithmic else ''}"


def _text(measure: Measure, value: float) -> str:
    return words.ratio(value) if measure.logarithmic else words.percent(value)


def _tiles(results: Comparison, sizes: list[int], drawn: list[Measure]) -> list[Tile]:
    """The best sound preset at each size, and how it does."""
    judging = {one.id: one for one in drawn if one.id in _AGAINST_TIME}
    tiles = []
    for size in sizes:
        mine = [row for row in results.finished if row.removed == size]
        judged = [row for row in mine if any(row.name in one.values for one in judging.values())]
        if not judged:
            continue
        layers = f"{size} layer{'s' if size > 1 else ''}"
        sound = [row for row in judged if row.collapsed is None]
        if not sound:
            tiles.append(Tile(f"without {layers}", "none", "all have collapsed", bad=True))
            continue
        best, alike = best_row(sound, judging.get("perplexity-0"), judging.get("retained"))
        also = [f"{_text(one, one.values[best.name])} {one.title.lower()}" for one in judging.values()
                if best.name in one.values]  # fmt: skip
        also += [f"tasks do not tell it from {_listed(alike)}"] if alike else []
        tiles.append(Tile(f"best without {layers}", best.preset, ", ".join(also)))
    return tiles


def _notices(results: Comparison) -> list[dict[str, str]]:
    """Rows that failed, were not reached, or came out ruined."""
    kinds = (
        ("collapsed", "collapse", f"Collapsed: perplexity at {words.ratio(COLLAPSED_RATIO)} the dense model’s or more"),
        ("failed", "warning", "Failed"),
        ("not run yet", "note", "Not run yet"),
    )
    found = []
    for word, level, headline in kinds:
        mine = [row for row in results.rows if note(row).startswith(word)]
        if mine:
            reasons = [f"{row.preset} at {row.removed}{note(row).removeprefix(word)}" for row in mine]
            found.append({"level": level, "headline": f"{headline}.", "text": "; ".join(reasons)})
    return found


def _shown(table: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """Headings and rows, without the notes, which stand above."""
    kept = [(heading, cells) for heading, cells in table if heading != "note"]
    return {"headings": [heading for heading, _ in kept], "rows": list(zip(*(cells for _, cells in kept), strict=True))}


def _facts(results: Comparison) -> list[tuple[str, str]]:
    seen = [row.calibration for row in results.finished]
    windows = {(one.source, one.samples, one.length) for one in seen}
    hashes = sorted({one.sha256 for one in seen})
    found = [("model", results.model.source), ("model sha256", results.model.sha256)]
    found += [
        ("calibration", f"{samples} rows of {source}, length {length}") for source, samples, length in sorted(windows)
    ]
    found += [("calibration sha256", digest) for digest in hashes]
    measured = [*results.dense.perplexity, *results.dense.tasks]
    found += [("seed", str(results.settings["seed"])), ("measured on", _listed(measured))]
    return [*found, *results.versions.items()]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"
