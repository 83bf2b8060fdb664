"""A chart is described once: both renderers draw all that a description may hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lowrise.report.charts import Axis, Band, Bars, Chart, HeatMap, Points, Rule
from lowrise.report.page_charts import chart_item
from lowrise.report.static_charts import svg, write_svg

LINE = Points(
    label="a line", x=[0, 1, 2], y=[1.0, 2.5, 4.0], colour="#112233", dash="dashed", notes=["first", "second", "third"],
    intervals=[None, (2.0, 3.0), None], columns={"more": [7, 8, 9]},
)  # fmt: skip
NAMED = Points(
    label="by name", x=[0.5, 0.75], y=["low", "high"], colour="#445566", marker="dash", dash=None, shift=0.1,
    intervals=[(0.25, 0.625), None],
)  # fmt: skip
BARS = Bars(label="a bar", names=["low", "high"], values=[0.5, 1.5], colour="#778899")
CELLS = HeatMap(label="a scale", values=[[1.0, 0.5], [0.5, 1.0]], low=0.0, high=1.0, squares=[(0, 1)])
PLAIN = Chart(
    id="plain", title="Plain", sentence="", x=Axis("along", whole=True), y=Axis("upright", log=True, low=0.5, high=8.0),
    marks=[LINE], rules=[Rule(2.0, "#abcdef", "a rule"), Rule(1.0, "#abcdef", upright=True)],
    bands=[Band(0.5, 1.5, "#fedcba")], hover=[("more", "@more")],
)  # fmt: skip
CHARTS = {
    "plain": PLAIN,
    "names": replace(PLAIN, x=Axis("share", low=0), y=Axis("", names=("low", "high")), marks=[BARS, NAMED], rules=()),
    "cells": replace(PLAIN, y=Axis("i"), marks=[CELLS], rules=(), bands=(), height=None),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_static_picture_says_what_the_description_says(name: str, tmp_path: Path) -> None:
    chart = CHARTS[name]
    write_svg([chart], tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    said = {
        "plain": ["a line", "a rule", "upright", "first", "third"],
        "names": ["a bar", "by name", "low", "high"],
        "cells": ["a scale", "i"],
    }[name]
    for text in [chart.title, chart.x.label, *said]:
        assert f">{text}</text>" in drawn
    for mark in chart.marks:
        assert isinstance(mark, HeatMap) or mark.colour in drawn


@pytest.mark.parametrize("name", CHARTS)
def test_a_page_s_figure_is_plain_json_and_the_same_again(name: str) -> None:
    """bokeh's ids count through the process, ours through the chart."""
    chart = CHARTS[name]
    first, again = (json.dumps(chart_item(chart)) for _ in range(2))
    assert first == again
    for mark in chart.marks:
        assert isinstance(mark, HeatMap) or mark.colour in first
        if isinstance(mark, Points):
            assert all(str(end) in first for ends in mark.intervals if ends is not None for end in ends)


def test_a_static_picture_is_the_same_again_and_takes_its_reader_s_colours() -> None:
    first, again = (svg([PLAIN], 1, (4.0, 3.0)) for _ in range(2))
    assert first == again
    assert "prefers-color-scheme: dark" in first
    plain = first.replace("<style>", "").partition("</style>")[2]
    assert "var(--ink)" in first
    assert "fill: #ffffff" not in plain, "paper of its own"


def test_several_charts_share_a_picture_and_its_legend(tmp_path: Path) -> None:
    write_svg([PLAIN, replace(PLAIN, title="Second"), replace(PLAIN, title="Third")], tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert [drawn.count(f">{text}</text>") for text in ("Plain", "Second", "Third", "a line", "a rule")] == [1] * 5


def test_the_legend_is_of_all_marks_but_a_heat_map() -> None:
    found = [CHARTS[name].keys for name in CHARTS]
    assert found == [
        [("a line", "#112233", "circle")],
        [("a bar", "#778899", "square"), ("by name", "#445566", "dash")],
        [],
    ]
    assert replace(PLAIN, marks=[replace(LINE, marker=None)]).keys == [("a line", "#112233", "line")]
