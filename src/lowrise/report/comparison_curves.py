"""A comparison as pictures for a paper: every measure of quality against depth removed, and against time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lowrise.report.charts import Axis
from lowrise.report.comparison_figures import against_depth, against_time
from lowrise.report.comparison_measures import measures
from lowrise.report.static_charts import write_svg
from lowrise.results import Comparison


def draw_comparison(results: Comparison, folder: Path) -> list[str]:
    """depth.svg and time.svg in `folder`, from what compare.json holds; their names. Nothing without a finished row."""
    drawn = measures(results)
    if not drawn:
        return []
    rows = results.finished
    write_svg([against_depth(measure, rows) for measure in drawn], folder / "depth.svg")
    said = Axis("seconds to compress; beside it, layers removed", log=True)
    write_svg([replace(against_time(measure, rows), x=said) for measure in drawn], folder / "time.svg")
    return ["depth.svg", "time.svg"]
