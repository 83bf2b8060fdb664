"""Charts on a page: bokeh figures in one quiet style that follows the page's light and dark colours.

Axes, grids and labels take their colours from the CSS variables of `templates/base.html`; marks have colours that
stand out on both grounds. A figure is plain JSON with ids of its own, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lowrise.report.charts import ASPECT, DENSE, Axis, Band, Bars, Chart, HeatMap, Points, Rule

_FONT = "ui-sans-serif, system-ui, sans-serif"


def chart_item(chart: Chart) -> dict[str, Any]:
    """The figure as data for bokeh's script. Its legend is HTML, which breaks lines on a phone as a canvas cannot."""
    from bokeh.embed import json_item

    made = _canvas(chart)
    for band in chart.bands:
        _shade(made, band)
    for rule in chart.rules:
        _rule(made, rule)
    hovered = []
    for mark in chart.marks:
        if isinstance(mark, Points):
            drawn = _points(made, mark)
        else:
            drawn = _bars(made, mark) if isinstance(mark, Bars) else _heat_map(made, mark)
        hovered += [drawn] if mark.hover else []
    _hover(made, chart, hovered)
    return _own_ids(json_item(made, f"chart-{chart.id}"), chart.id)


def _canvas(chart: Chart) -> Any:
    """An empty figure as wide as its place. Lines of the grid lie across the axis that values are read from."""
    from bokeh.plotting import figure

    shape = {"height": chart.height} if chart.height else {"height": None, "aspect_ratio": ASPECT}
    made = figure(
        sizing_mode="stretch_width", toolbar_location=None, tools="", x_axis_label=chart.x.label,
        y_axis_label=chart.y.label, min_border_right=16, background_fill_color=None, border_fill_color=None,
        outline_line_color=None, **shape, **_scale("x", chart.x), **_scale("y", chart.y),
    )  # fmt: skip
    made.xgrid.visible = bool(chart.y.names)
    made.ygrid.visible = chart.height is not None and not chart.y.names
    for axis in made.axis:
        axis.minor_tick_line_color = None
        axis.major_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    made.yaxis.axis_line_color = None
    if chart.x.low is not None and chart.x.high is None:
        made.x_range.start = chart.x.low
    if chart.x.whole:
        made.xaxis[0].ticker.min_interval = 1
    return made


def _scale(which: str, axis: Axis) -> dict[str, Any]:
    options: dict[str, Any] = {f"{which}_axis_type": "log"} if axis.log else {}
    if axis.names:
        options[f"{which}_range"] = list(axis.names)
    elif axis.low is not None and axis.high is not None:
        options[f"{which}_range"] = (axis.low, axis.high)
    return options


def _points(made: Any, mark: Points) -> Any:
    """The marks, or the line where there are none, to hover over."""
    from bokeh.models import ColumnDataSource

    y = [(name, mark.shift) for name in mark.y] if mark.shift else list(mark.y)
    columns: dict[str, Sequence[Any]] = {"x": list(mark.x), "y": y, "label": [mark.label] * len(mark.x), **mark.columns}
    source = ColumnDataSource({name: list(values) for name, values in columns.items()})
    drawn = None
    _intervals(made, mark, y)
    if mark.dash is not None:
        drawn = made.line(
            "x", "y", source=source, color=mark.colour, line_width=mark.width, line_dash=mark.dash, alpha=mark.alpha
        )
    if mark.marker is not None:
        turned = {"angle": math.pi / 2, "line_width": 2} if mark.marker == "dash" else {}
        drawn = made.scatter("x", "y", source=source, color=mark.colour, size=mark.size, marker=mark.marker, **turned)
    return drawn


def _intervals(made: Any, mark: Points, y: list[Any]) -> None:
    known = [(x, at, ends) for x, at, ends in zip(mark.x, y, mark.intervals, strict=False) if ends is not None]
    if not known:
        return
    x, y, ends = map(list, zip(*known, strict=True))
    low, high = map(list, zip(*ends, strict=True))
    if isinstance(y[0], int | float):
        made.segment(x, low, x, high, color=mark.colour, line_width=2, alpha=0.55)
    else:
        made.segment(low, y, high, y, color=mark.colour, line_width=3, alpha=0.45)


def _bars(made: Any, mark: Bars) -> Any:
    columns = {"y": list(mark.names), "x": list(mark.values), **mark.columns}
    return made.hbar(y="y", right="x", source=columns, height=0.5, color=mark.colour, alpha=0.9)


def _heat_map(made: Any, mark: HeatMap) -> Any:
    import numpy as np
    from bokeh.models import BasicTicker, ColorBar, LinearColorMapper
    from bokeh.palettes import Viridis256

    n = len(mark.values)
    mapper = LinearColorMapper(Viridis256, low=mark.low, high=mark.high)
    drawn = made.image([np.array(mark.values)], x=-0.5, y=-0.5, dw=n, dh=n, color_mapper=mapper)
    for start, stop in mark.squares:
        middle, side = [(start + stop) / 2], stop - start
        made.rect(middle, middle, side, side, fill_color=None, line_color="#ffffff", line_width=2)
    bar = ColorBar(color_mapper=mapper, height=10, padding=0, margin=10, ticker=BasicTicker(desired_num_ticks=5))
    bar.background_fill_color = bar.major_tick_line_color = bar.bar_line_color = None
    bar.major_label_text_font_size, bar.major_label_text_color = "12px", DENSE
    made.add_layout(bar, "below")
    return drawn


def _hover(made: Any, chart: Chart, marks: list[Any]) -> None:
    from bokeh.models import HoverTool

    mode = "vline" if chart.along_x else "mouse"
    made.add_tools(HoverTool(renderers=marks, tooltips=list(chart.hover), mode=mode, show_arrow=False))


def _shade(made: Any, band: Band) -> None:
    from bokeh.models import BoxAnnotation

    made.add_layout(
        BoxAnnotation(
            left=band.left, right=band.right, fill_color=band.colour, fill_alpha=0.16, line_color=None, level="underlay"
        )
    )


def _rule(made: Any, rule: Rule) -> None:
    from bokeh.models import Span

    dimension = "height" if rule.upright else "width"
    made.add_layout(Span(location=rule.value, dimension=dimension, line_color=rule.colour, line_dash=[4, 4]))


@cache
def bokeh_script() -> str:
    """bokeh's own code, to stand in a page: no network is needed to draw."""
    import bokeh

    script = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return re.sub("</(script)", r"<\\/\1", script.read_text(encoding="utf-8"), flags=re.IGNORECASE)


def _own_ids(item: dict[str, Any], prefix: str) -> dict[str, Any]:
    """bokeh counts its ids through a whole process; here they count from 0 in every chart."""
    names: dict[str, str] = {}

    def renamed(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [renamed(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        return {
            key: names.setdefault(entry, f"{prefix}-{len(names)}")
            if key in ("id", "root_id") and isinstance(entry, str)
            else renamed(entry)
            for key, entry in value.items()
        }

    made: dict[str, Any] = renamed(item)
    return made
