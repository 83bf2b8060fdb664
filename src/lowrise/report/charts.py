"""What a chart shows, said once: `page_charts.py` draws it for a page, `static_charts.py` as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# Okabe and Ito's colours, told apart by colour-blind readers, shifted to stand out on white and on near-black.
DENSE = "#8592a6"
COMPRESSED = "#2b84c9"
REMOVED = "#d9622b"
MERGED = "#c06a9f"
REPLACED = "#d99a14"
SERIES = (COMPRESSED, REMOVED, "#149a78", MERGED, REPLACED, "#7a6fd0", "#49a8d8", DENSE)
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "hex", "star")
ASPECT = 0.84  # width over height, of a heat map with its colours below

Dash = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True)
class Axis:
    """low, high: where it ends; None: as far as the marks go. whole: whole numbers alone are marked.

    names: categories in the place of numbers, from the bottom up; of the upright axis.
    """

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    whole: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Points:
    """Values of one name, as a line, as marks, or as both.

    y: numbers, or names of the axis, then `shift` moves them up from there. dash: of the line; None: there is none.
    marker: None: there is none; `dash` stands upright. intervals: (low, high) around each value where it is known,
    along y, or along x where y is a name. columns: more values of each point, for the hover. notes: a word beside each
    point where nothing can be hovered over.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Any]
    colour: str
    marker: str | None = "circle"
    size: int = 7
    dash: Dash | None = "solid"
    width: int = 2
    alpha: float = 1.0
    shift: float = 0.0
    intervals: Sequence[tuple[float, float] | None] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    hover: bool = True


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A level bar from 0 for each name of the upright axis. columns: more values of each, for the hover."""

    label: str
    names: Sequence[str]
    values: Sequence[float]
    colour: str
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    hover: bool = True


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """values: (n, n), the centre of [i, j] being at x = j, y = i. squares: [start, stop] on both axes, outlined."""

    label: str
    values: Sequence[Sequence[float]]
    low: float
    high: float
    squares: Sequence[tuple[float, float]] = ()
    hover: bool = True


@dataclass(frozen=True)
class Rule:
    """A dashed line across the chart. label: for the legend of an SVG; a page says it in its sentence."""

    value: float
    colour: str
    label: str = ""
    upright: bool = False


@dataclass(frozen=True)
class Band:
    """A shade from left to right behind the marks, as high as the chart."""

    left: float
    right: float
    colour: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Marks are drawn in their order, over bands and rules.

    hover: what is shown beside a mark, as (name, text), in bokeh's words: `@x`, `@column{0.0000}`. along_x: wherever
    the pointer is above or below a mark, and not only on it.
    """

    id: str
    """A word that no other chart of a page has. `title` and `sentence` stand above it, escaped by the template."""
    title: str
    sentence: str
    x: Axis
    y: Axis
    marks: Sequence[Points | Bars | HeatMap]
    rules: Sequence[Rule] = ()
    bands: Sequence[Band] = ()
    hover: Sequence[tuple[str, str]] = ()
    along_x: bool = False
    height: int | None = 300
    """In pixels, of a page; None: a heat map, which keeps its shape."""
    wide: bool = False
    """It takes the whole width of a page where charts stand side by side."""
    tall: bool = False
    """It stands beside two others."""

    @property
    def box(self) -> str:
        """CSS that keeps its place on a page free until it is drawn."""
        return f"height: {self.height}px" if self.height else f"aspect-ratio: {ASPECT}"

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """The legend: (label, colour, shape) of each mark but a heat map."""
        return [
            (mark.label, mark.colour, "square" if isinstance(mark, Bars) else mark.marker or "line")
            for mark in self.marks
            if not isinstance(mark, HeatMap)
        ]
