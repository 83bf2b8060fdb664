"""The charts of what was seen of the layers before anything was changed (observation.json)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lowrise.plan import Drop, Merge, Plan
from lowrise.report.charts import (
    COMPRESSED,
    DENSE,
    MERGED,
    REMOVED,
    REPLACED,
    Chart,
    canvas,
    finish,
    hover,
    line,
    rule,
    shade,
    whole_numbers,
)
from lowrise.results import Observation


def layers_chart(plan: Plan, seen: Observation) -> Chart:
    values = seen.input_output
    low, high = _without_outliers(values)
    made = canvas(
        "layer", "cosine of input and output", height=220, x_range=(-0.7, len(values) - 0.3), y_range=(low, high)
    )
    whole_numbers(made)
    _shade_edits(made, plan)
    for writer in seen.norms.writers:
        rule(made, writer, DENSE, upright=True)
    points = line(made, range(len(values)), values, "one layer", COMPRESSED)
    hover(made, [points], [("layer", "@x"), ("cosine", "@y{0.0000}")], along_x=True)
    sentence = "The nearer to 1, the less a layer changes what passes through it. The band marks what was taken out."
    if seen.norms.writers:
        sentence += " A dashed line marks a layer that writes massive activations."
    below = [f"layer {layer} ({value:.2f})" for layer, value in enumerate(values) if value < low]
    if below:
        sentence += f" Below the picture: {', '.join(below)}."
    return finish(made, "layers", "How alike is what enters and leaves a layer?", sentence)


def _without_outliers(values: list[float]) -> tuple[float, float]:
    """What an axis shows so that one odd layer does not flatten all others: from five interquartile ranges down on."""
    ordered = sorted(filter(math.isfinite, values)) or [0.0]  # a state of zeros has no cosine
    quartile, upper = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    low = min(value for value in ordered if value >= quartile - 5 * (upper - quartile))
    margin = max(0.06 * (ordered[-1] - low), 1e-4)
    return low - margin, ordered[-1] + margin


def pairs_chart(plan: Plan, seen: Observation) -> Chart:
    from bokeh.models import BasicTicker, ColorBar, LinearColorMapper
    from bokeh.palettes import Viridis256

    states = len(seen.pairs)
    lowest = min((value for row in seen.pairs for value in row if math.isfinite(value)), default=0.0)
    mapper = LinearColorMapper(Viridis256, low=max(0.0, math.floor(10 * lowest) / 10), high=1.0)
    edges = (-0.5, states - 0.5)
    made = canvas("state h[j]", "state h[i]", height=None, aspect_ratio=0.84, x_range=edges, y_range=edges)
    whole_numbers(made)
    made.ygrid.visible = False
    cells = made.image([np.array(seen.pairs)], x=-0.5, y=-0.5, dw=states, dh=states, color_mapper=mapper)
    for edit in plan.edits:
        span = edit.stop - edit.start
        middle = (edit.start + edit.stop) / 2
        made.rect([middle], [middle], span, span, fill_color=None, line_color="#ffffff", line_width=2)
    bar = ColorBar(color_mapper=mapper, height=10, padding=0, margin=10, ticker=BasicTicker(desired_num_ticks=5))
    bar.background_fill_color = bar.major_tick_line_color = bar.bar_line_color = None
    bar.major_label_text_font_size, bar.major_label_text_color = "12px", DENSE
    made.add_layout(bar, "below")
    hover(made, [cells], [("states", "h[$y{0}], h[$x{0}]"), ("cosine", "@image{0.0000}")])
    sentence = (
        "Bright blocks are stretches of the model that change little. h[l] is what enters layer l; the white square "
        "is what was taken out."
    )
    return finish(made, "pairs", "How alike are any two places?", sentence, tall=True)


def norms_chart(plan: Plan, seen: Observation) -> Chart:
    norms = seen.norms
    made = canvas(
        "state h[l]", "norm of a token", height=220, y_axis_type="log", x_range=(-0.7, len(norms.largest) - 0.3)
    )
    _shade_edits(made, plan)
    whole_numbers(made)
    states = range(len(norms.largest))
    largest = line(made, states, norms.largest, "largest token", REMOVED, marker="square")
    median = line(made, states, norms.median, "median token", COMPRESSED)
    hover(made, [largest, median], [("", "@label"), ("state", "h[@x]"), ("norm", "@y{0,0.0}")], along_x=True)
    sentence = "A few tokens carry norms far above the others'. "
    if norms.writers:
        layers = " and ".join(map(str, norms.writers))
        sentence += f"They are written in layer {layers}; nothing small can replace a span that holds it."
    else:
        sentence = "No layer of this model writes massive activations on this text."
    return finish(made, "norms", "Massive activations", sentence)


def _shade_edits(made: Any, plan: Plan) -> None:
    for edit in plan.edits:
        colour = REMOVED if isinstance(edit, Drop) else MERGED if isinstance(edit, Merge) else REPLACED
        shade(made, edit.start - 0.5, edit.stop - 0.5, colour)
