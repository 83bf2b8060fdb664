"""What `lowrise observe` found, as pictures. Layers are 0-based; h[l] enters layer l."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lowrise.report.charts import REMOVED, Chart, Points
from lowrise.report.observation_figures import layers_chart, matrices_charts, norms_chart, pairs_chart
from lowrise.report.static_charts import write_svg
from lowrise.results import Seen


def draw_observation(found: Seen, folder: Path) -> list[str]:
    """Four SVG files in `folder`; their names. found: what `observe.analysis.analyse` returns."""
    pictures = {
        "input-output.svg": [_input_output(found)],
        "pairs.svg": [pairs_chart(found)],
        "matrices.svg": matrices_charts(found),
        "norms.svg": [norms_chart(found)],
    }
    for name, charts in pictures.items():
        write_svg(charts, folder / name)
    return list(pictures)


def _input_output(found: Seen) -> Chart:
    """Both cosines, and all of them: beside a picture no sentence says what lies outside."""
    chart = layers_chart(found)
    tokens = Points(label="a token at a time", x=range(found.layers), y=found.input_output, colour=chart.keys[0][1])
    flat = replace(tokens, label="a window as one vector", y=found.flattened, colour=REMOVED, marker="square")
    return replace(chart, y=replace(chart.y, low=None, high=None), marks=[tokens, replace(flat, dash="dashed")])
