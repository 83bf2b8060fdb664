"""Charts as SVG files, for a paper or a folder without a page: matplotlib draws what `charts.py` describes.

One file serves light and dark: what is neither a mark nor a colour scale takes the reader's colours. Text stays text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lowrise.files import write_file
from lowrise.report.charts import Axis, Bars, Chart, HeatMap, Points

_MARKERS = {
    "circle": "o", "square": "s", "triangle": "^", "diamond": "D", "inverted_triangle": "v", "plus": "P", "hex": "h",
    "star": "*", "dash": "|",
}  # fmt: skip
_POINTS = 0.75  # of a pixel
_WIDE = 6.0  # inches; a narrower picture is for a telephone, and has fewer numbers on its axes
_SHORT = 26  # characters of a legend's label, of which two stand beside each other in a narrow picture
# Drawn in these, which no mark has; then named, so that a reader in the dark sees others.
_NAMED = {"#1b2430": "ink", "#c9d1dc": "line"}
_INK, _LINE = _NAMED
_STYLE = """<style>
:root { --ink: #1b2430; --line: #c9d1dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe5ee; --line: #465064; } }
text { fill: var(--ink); }
</style>"""
_PLAIN: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lowrise", "text.color": _INK, "axes.labelcolor": _INK,
    "axes.titlecolor": _INK, "axes.edgecolor": _LINE, "xtick.color": _LINE, "ytick.color": _LINE,
    "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


def write_svg(charts: Sequence[Chart], path: Path) -> None:
    """The charts in one file, two beside each other; where they are several, one legend below is that of all."""
    across = min(len(charts), 2)
    down = -(-len(charts) // across)
    single = (7.5, 4.2) if charts[0].height else (7.5, 6.5)
    write_file(path, svg(charts, across, single if len(charts) == 1 else (5.2 * across, 3.6 * down + 0.5)))


def svg(charts: Sequence[Chart], across: int, size: tuple[float, float]) -> str:
    """The file, the same for the same charts. across: charts beside each other; size: (width, height), in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_PLAIN):
        figure = Figure(figsize=size, layout="constrained")
        places = list(figure.subplots(-(-len(charts) // across), across, squeeze=False).flat)
        for axes, chart in zip(places, charts, strict=False):
            _draw(figure, axes, chart)
        for axes in places[len(charts) :]:
            axes.remove()
        _legend(figure)
        drawing = io.StringIO()
        title = ". ".join(dict.fromkeys(chart.title for chart in charts))
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = drawing.getvalue()
    for colour, name in _NAMED.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<defs>", f"{_STYLE}\n <defs>", 1)


def _legend(figure: Any) -> None:
    labels: dict[str, Any] = {}
    for axes in figure.axes:  # what has no value in one chart has one in another
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    if len(labels) > 1:
        columns = 5 if figure.get_figwidth() >= _WIDE else 2 if max(map(len, labels)) <= _SHORT else 1
        columns = min(len(labels), columns)
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=columns, frameon=False)


def _draw(figure: Any, axes: Any, chart: Chart) -> None:
    axes.set_title(chart.title, fontsize="medium")
    _scale(axes, "x", chart.x)
    _scale(axes, "y", chart.y)
    for band in chart.bands:
        axes.axvspan(band.left, band.right, color=band.colour, alpha=0.16, linewidth=0)
    for rule in chart.rules:
        across = axes.axvline if rule.upright else axes.axhline
        across(rule.value, color=rule.colour, linestyle="--", linewidth=1, label=rule.label or None)
    for mark in chart.marks:
        if isinstance(mark, Points):
            _points(axes, mark, chart.y)
        elif isinstance(mark, Bars):
            rows = [chart.y.names.index(name) for name in mark.names]
            axes.barh(rows, mark.values, height=0.5, color=mark.colour, label=mark.label)
        else:
            _heat_map(figure, axes, mark)
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)


def _scale(axes: Any, which: Literal["x", "y"], said: Axis) -> None:
    """20 and 50 on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import LogFormatter, MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_label_text(said.label)
    if said.log:
        getattr(axes, f"set_{which}scale")("log")
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    elif axes.figure.get_figwidth() < _WIDE and not said.names:
        axis.set_major_locator(MaxNLocator(5))
    if said.whole:
        axis.set_major_locator(MaxNLocator(integer=True))
    if said.names:
        axis.set_ticks(range(len(said.names)), labels=said.names)


def _points(axes: Any, mark: Points, upright: Axis) -> None:
    y = [upright.names.index(name) + mark.shift for name in mark.y] if upright.names else list(mark.y)
    axes.plot(
        list(mark.x), y, color=mark.colour, alpha=mark.alpha, label=mark.label, linestyle=mark.dash or "none",
        linewidth=mark.width * _POINTS, marker=_MARKERS[mark.marker] if mark.marker else "none",
        markersize=mark.size * _POINTS,
    )  # fmt: skip
    for x, height, ends in zip(mark.x, y, mark.intervals, strict=False):
        if ends is not None:
            along = (ends, (height, height)) if upright.names else ((x, x), ends)
            axes.plot(*along, color=mark.colour, alpha=0.5, linewidth=2 * _POINTS)
    for x, height, note in zip(mark.x, y, mark.notes, strict=False):
        axes.annotate(note, (x, height), xytext=(5, 3), textcoords="offset points", fontsize="small")


def _heat_map(figure: Any, axes: Any, mark: HeatMap) -> None:
    from matplotlib.patches import Rectangle

    image = axes.imshow(mark.values, vmin=mark.low, vmax=mark.high, cmap="viridis", origin="lower")
    for start, stop in mark.squares:
        axes.add_patch(Rectangle((start, start), stop - start, stop - start, fill=False, edgecolor="white"))
    figure.colorbar(image, label=mark.label, shrink=0.85)
