"""compare.html: a comparison as one self-contained page with values on hover."""

from __future__ import annotations

from typing import Any

from lowrise.quality import COLLAPSED_RATIO
from lowrise.report import words
from lowrise.report.comparison import accuracies, columns, note, strong_headings
from lowrise.report.comparison_best import best_row
from lowrise.report.comparison_figures import against_depth, against_time, shown_value
from lowrise.report.comparison_measures import Measure, measures
from lowrise.report.document import render_page
from lowrise.report.scores import Tile
from lowrise.results import Comparison, DoneRow


def comparison_page(results: Comparison) -> str:
    """The page's HTML, from what compare.json holds."""
    rows = results.finished
    drawn, table = measures(results), columns(results)
    depth = {chart.id: chart for chart in (against_depth(one, rows) for one in drawn)}
    time = {chart.id: chart for chart in (against_time(one, rows) for one in drawn if one.id in _AGAINST_TIME)}
    presets = list(dict.fromkeys(row.preset for row in results.rows))
    sizes = list(dict.fromkeys(row.removed for row in results.rows))
    name = results.model.source.rstrip("/").rpartition("/")[2]
    return render_page(
        "compare.html",
        title=f"{name}: {len(presets)} ways to take layers out",
        charts={**depth, **time},
        depth=list(depth.values()),
        time=list(time.values()),
        lead=f"{words.listed(presets)}, at {words.listed([str(size) for size in sizes])} of {results.layers} layers.",
        tiles=_tiles(results, sizes, drawn),
        notices=_notices(results),
        table=_shown(table),
        strong=strong_headings(results),
        ruined={index for index, row in enumerate(results.rows, 1) if isinstance(row, DoneRow) and row.collapsed},
        tasks=_shown(accuracies(results)),
        facts=_facts(results),
    )


_AGAINST_TIME = ("perplexity-0", "retained")


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
        best, tied = best_row(sound, judging.get("perplexity-0"), judging.get("retained"))
        also = [f"{shown_value(one, one.values[best.name])} {one.title.lower()}" for one in judging.values()
                if best.name in one.values]  # fmt: skip
        also += [f"tasks do not tell it from {words.listed(tied)}"] if tied else []
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
    found += [("seed", str(results.settings["seed"])), ("measured on", words.listed(measured))]
    return [*found, *results.versions.items()]
