"""A comparison as pictures for a paper: every measure of quality against depth removed, and against time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lowrise.files import write_file
from lowrise.report.comparison_measures import Measure, measures
from lowrise.results import Comparison, DoneRow

_COLOURS = ("#1f4e8c", "#b04a3a", "#2f7d4f", "#8a5fa8", "#c08a1e", "#3a8fa3", "#7a7a7a", "#c05a8a")
_MARKERS = "osD^vPX*"


def draw_comparison(results: Comparison, folder: Path) -> list[str]:
    """depth.svg and time.svg in `folder`, from what compare.json holds; their names. Nothing without a finished row."""
    from matplotlib.figure import Figure

    rows, drawn = results.finished, measures(results)
    if not drawn:
        return []
    across = 1 if len(drawn) == 1 else 2
    down = -(-len(drawn) // across)
    for name, draw in (("depth.svg", _against_depth), ("time.svg", _against_time)):
        figure = Figure(figsize=(5.2 * across, 3.6 * down + 0.5), layout="constrained")
        places = figure.subplots(down, across, squeeze=False).flat
        for axes, measure in zip(places, drawn, strict=False):
            draw(axes, measure, rows)
            axes.set_title(measure.title, fontsize="medium")
            axes.set_ylabel("times dense" if measure.logarithmic else "")
            axes.set_yscale("log" if measure.logarithmic else "linear")
            axes.set_ylim(measure.scale)
            _plain_numbers(axes)
            axes.axhline(measure.dense, color="#999999", linestyle=":", linewidth=1, label="dense")
            if measure.chance is not None:
                axes.axhline(measure.chance, color="#cccccc", linestyle="--", linewidth=1)
        for axes in list(figure.axes)[len(drawn) :]:
            axes.remove()
        labels: dict[str, Any] = {}
        for axes in figure.axes:  # a preset without a value in one panel has one in another
            handles, names = axes.get_legend_handles_labels()
            labels |= dict(zip(names, handles, strict=True))
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=5, frameon=False)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg")
        write_file(folder / name, drawing.getvalue())
    return ["depth.svg", "time.svg"]


def _against_depth(axes: Any, measure: Measure, rows: list[DoneRow]) -> None:
    """One line a preset, from the dense model at 0%."""
    for index, preset in enumerate(dict.fromkeys(row.preset for row in rows)):
        mine = [row for row in rows if row.preset == preset and row.name in measure.values]
        mine.sort(key=lambda row: row.removed)
        points = [(0.0, measure.dense), *((100 * row.removed_share, measure.values[row.name]) for row in mine)]
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        if mine:
            axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=preset, markersize=5)
    axes.set_xlabel("layers removed, %")


def _against_time(axes: Any, measure: Measure, rows: list[DoneRow]) -> None:
    """One point a row, beside it the layers removed."""
    for index, preset in enumerate(dict.fromkeys(row.preset for row in rows)):
        mine = [row for row in rows if row.preset == preset and row.name in measure.values]
        seconds = [max(row.seconds_to_compress, 0.01) for row in mine]  # `tail` takes no time, the axis no zero
        values = [measure.values[row.name] for row in mine]
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        if mine:
            axes.scatter(seconds, values, marker=marker, color=colour, label=preset, s=30)
        for row, x, y in zip(mine, seconds, values, strict=True):
            axes.annotate(str(row.removed), (x, y), xytext=(5, 3), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.set_xlabel("seconds to compress; beside it, layers removed")


def _plain_numbers(axes: Any) -> None:
    """20 and 50 on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import LogFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(LogFormatter())
            axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
