"""Charts for a page: bokeh figures in one quiet style that follows the page's light and dark colours.

Axes, grids and labels take their colours from the CSS variables of `templates/base.html`; marks have colours that
stand out on both grounds. `Chart.item` is plain JSON with ids of its own, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, told apart by colour-blind readers, shifted to stand out on white and on near-black.
DENSE = "#8592a6"
COMPRESSED = "#2b84c9"
REMOVED = "#d9622b"
MERGED = "#c06a9f"
REPLACED = "#d99a14"
SERIES = (COMPRESSED, REMOVED, "#149a78", MERGED, REPLACED, "#7a6fd0", "#49a8d8", DENSE)
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "hex", "star")
_FONT = "ui-sans-serif, system-ui, sans-serif"


@dataclass(frozen=True)
class Chart:
    """A figure of a page. `title` and `sentence` stand above it and are escaped by the template."""

    id: str
    """A word that no other chart of the page has."""
    title: str
    sentence: str
    item: dict[str, Any]
    box: str
    """CSS that keeps the place free until the figure is drawn."""
    keys: list[tuple[str, str, str]]
    """The legend: (label, colour, the shape of its mark)."""
    wide: bool
    """It takes the whole width where charts stand side by side."""
    tall: bool
    """It stands beside two others."""


def canvas(x: str, y: str, *, height: int | None = 300, **options: Any) -> Any:
    """An empty bokeh figure as wide as its place, `height` pixels high. x, y: what the axes say.

    options: those of `bokeh.plotting.figure`, such as x_range, y_range, y_axis_type="log"; aspect_ratio with a height
    of None, for a figure that keeps its shape.
    """
    from bokeh.plotting import figure

    made = figure(
        height=height, sizing_mode="stretch_width", toolbar_location=None, tools="", x_axis_label=x, y_axis_label=y,
        min_border_right=16, background_fill_color=None, border_fill_color=None, outline_line_color=None, **options,
    )  # fmt: skip
    made.xgrid.visible = False
    for axis in made.axis:
        axis.minor_tick_line_color = None
        axis.major_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    made.yaxis.axis_line_color = None
    return made


def hover(made: Any, marks: Sequence[Any], rows: Sequence[tuple[str, str]], *, along_x: bool = False) -> None:
    """Values on hover over `marks` (glyphs of `made`). rows: (name, "@column{format}"), column names being ours alone.

    along_x: wherever the pointer is above or below a mark, and not only on it.
    """
    from bokeh.models import HoverTool

    made.add_tools(
        HoverTool(renderers=list(marks), tooltips=list(rows), mode="vline" if along_x else "mouse", show_arrow=False)
    )


def line(made: Any, x: Sequence[Any], y: Sequence[Any], label: str, colour: str, **more: Any) -> Any:
    """A line with a point at each value, in the legend as `label`; returns the points, to hover over.

    more: further columns of the same length, for `hover`; or marker="square", size=5, dash="dashed", width=1.
    """
    from bokeh.models import ColumnDataSource

    marker, size = more.pop("marker", "circle"), more.pop("size", 7)
    dash, width = more.pop("dash", "solid"), more.pop("width", 2)
    source = ColumnDataSource({"x": list(x), "y": list(y), "label": [label] * len(x), **more})
    made.line("x", "y", source=source, color=colour, line_width=width, line_dash=dash, legend_label=label)
    return made.scatter("x", "y", source=source, color=colour, size=size, marker=marker, legend_label=label)


def intervals(made: Any, x: Sequence[float], low: Sequence[Any], high: Sequence[Any], colour: str) -> None:
    """An upright bar from low to high at each x."""
    made.segment(list(x), list(low), list(x), list(high), color=colour, line_width=2, alpha=0.55)


def shade(made: Any, left: float, right: float, colour: str) -> None:
    """A band from left to right behind the marks, as high as the chart."""
    from bokeh.models import BoxAnnotation

    made.add_layout(
        BoxAnnotation(left=left, right=right, fill_color=colour, fill_alpha=0.16, line_color=None, level="underlay")
    )


def rule(made: Any, value: float, colour: str, *, upright: bool = False) -> None:
    """A dashed line across the chart at `value`."""
    from bokeh.models import Span

    made.add_layout(
        Span(location=value, dimension="height" if upright else "width", line_color=colour, line_dash=[4, 4])
    )


def whole_numbers(made: Any) -> None:
    """No half layers on the lower axis."""
    made.xaxis[0].ticker.min_interval = 1


def finish(made: Any, id: str, title: str, sentence: str, *, wide: bool = False, tall: bool = False) -> Chart:
    """The figure as data for a page. Its legend becomes HTML, which breaks lines on a phone as a canvas cannot."""
    from bokeh.embed import json_item

    keys = [_key(entry) for entry in (made.legend[0].items if made.legend else [])]
    for legend in made.legend:
        legend.visible = False
    item = json_item(made, f"chart-{id}")
    box = f"height: {made.height}px" if made.height else f"aspect-ratio: {made.aspect_ratio}"
    return Chart(id, title, sentence, _own_ids(item, id), box, keys if len(keys) > 1 else [], wide, tall)


def _key(entry: Any) -> tuple[str, str, str]:
    glyph = entry.renderers[-1].glyph
    if hasattr(glyph, "marker"):
        return entry.label.value, glyph.line_color if glyph.marker == "dash" else glyph.fill_color, glyph.marker
    return entry.label.value, glyph.line_color, "line" if type(glyph).__name__ == "Line" else "square"


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
