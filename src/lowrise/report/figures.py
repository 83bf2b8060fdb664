"""The charts of one run, each from a part of what its folder holds; a chart whose data is not there is left out."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ValidationError

from lowrise.plan import Drop, Merge, Plan
from lowrise.report import words
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
from lowrise.report.folder import Contents, Curve, Observation
from lowrise.report.score_figures import speed_chart, tasks_chart


class _CosineScores(BaseModel):
    span: int
    cosine: list[float]
    published_start: int
    start_without_massive_writers: int | None = None


class _Trial(BaseModel):
    start: int
    stop: int
    similarity: float
    accepted: bool


class _Loss(BaseModel):
    perplexity_ratio: float


class _CollapseScores(BaseModel):
    trials: list[_Trial]
    threshold: float | None = None
    loss: _Loss | None = None


def charts_of(contents: Contents) -> dict[str, Chart]:
    """By name: layers, spans, pairs, norms, trials, training-N, tasks, speed."""
    seen = contents.observation
    found: list[Chart | None] = [
        _spans(contents.plan),
        _trials(contents.plan),
        *(
            []
            if seen is None
            else [_layers(contents.plan, seen), _norms(contents.plan, seen), _pairs(contents.plan, seen)]
        ),
        *(_training(curve, index) for index, curve in enumerate(contents.curves)),
        tasks_chart(contents),
        speed_chart(contents),
    ]
    return {chart.id: chart for chart in found if chart is not None}


def _shade_edits(made: Any, plan: Plan) -> None:
    for edit in plan.edits:
        colour = REMOVED if isinstance(edit, Drop) else MERGED if isinstance(edit, Merge) else REPLACED
        shade(made, edit.start - 0.5, edit.stop - 0.5, colour)


def _layers(plan: Plan, seen: Observation) -> Chart:
    count = len(seen.input_output)
    made = canvas("layer", "cosine of input and output", height=220, x_range=(-0.7, count - 0.3))
    whole_numbers(made)
    _shade_edits(made, plan)
    for writer in seen.norms.writers:
        rule(made, writer, DENSE, upright=True)
    points = line(made, range(count), seen.input_output, "one layer", COMPRESSED)
    hover(made, [points], [("layer", "@x"), ("cosine", "@y{0.0000}")], along_x=True)
    sentence = "The nearer to 1, the less a layer changes what passes through it. The band marks what was taken out" + (
        "; dashed lines mark layers that write massive activations." if seen.norms.writers else "."
    )
    return finish(made, "layers", "How alike is what enters and leaves a layer?", sentence)


def _spans(plan: Plan) -> Chart | None:
    try:
        scores = _CosineScores.model_validate(plan.scores)
    except ValidationError:
        return None
    n, count = scores.span, len(scores.cosine)
    made = canvas(f"first layer of a span of {n}", "cosine of its two ends", height=260, x_range=(-0.7, count - 0.3))
    whole_numbers(made)
    points = line(
        made, range(count), scores.cosine, "every span", DENSE, stop=[start + n - 1 for start in range(count)]
    )
    marks = [points]
    for start, label, colour, marker in (
        (scores.start_without_massive_writers, "best without a writer of massive activations", COMPRESSED, "square"),
        (scores.published_start, "most alike", REPLACED, "circle"),
        (next((edit.start for edit in plan.edits), None), "taken", REMOVED, "diamond"),
    ):
        if start is not None and start < count:
            size = 9 + 4 * (marker == "diamond")
            made.scatter([start], [scores.cosine[start]], size=size, color=colour, marker=marker, legend_label=label)
    hover(made, marks, [("layers", "@x to @stop"), ("cosine", "@y{0.0000}")], along_x=True)
    sentence = f"Of all {count} spans of {n} layers, the criterion takes the one whose ends are most alike."
    return finish(made, "spans", "Which span was chosen?", sentence, wide=True)


def _pairs(plan: Plan, seen: Observation) -> Chart:
    from bokeh.models import BasicTicker, ColorBar, ColumnDataSource, LinearColorMapper
    from bokeh.palettes import Viridis256

    states = len(seen.pairs)
    lowest = min(min(row) for row in seen.pairs)
    mapper = LinearColorMapper(Viridis256, low=max(0.0, math.floor(10 * lowest) / 10), high=1.0)
    grid = [(i, j) for i in range(states) for j in range(states)]
    source = ColumnDataSource(
        {"x": [j for _, j in grid], "y": [i for i, _ in grid], "cosine": [round(seen.pairs[i][j], 4) for i, j in grid]}
    )
    edges = (-0.5, states - 0.5)
    made = canvas("state h[j]", "state h[i]", height=540, x_range=edges, y_range=edges)
    whole_numbers(made)
    made.ygrid.visible = False
    cells = made.rect(
        "x", "y", 1.02, 1.02, source=source, line_color=None, fill_color={"field": "cosine", "transform": mapper}
    )
    for edit in plan.edits:
        span = edit.stop - edit.start
        middle = (edit.start + edit.stop) / 2
        made.rect([middle], [middle], span, span, fill_color=None, line_color="#ffffff", line_width=2)
    bar = ColorBar(color_mapper=mapper, height=10, padding=0, margin=10, ticker=BasicTicker(desired_num_ticks=5))
    bar.background_fill_color = bar.major_tick_line_color = bar.bar_line_color = None
    bar.major_label_text_font_size = "12px"
    made.add_layout(bar, "below")
    hover(made, [cells], [("from h[@y] to h[@x]", "@cosine{0.0000}")])
    sentence = (
        "Bright blocks are stretches of the model that change little. h[l] is what enters layer l; the white square "
        "is what was taken out."
    )
    return finish(made, "pairs", "How alike are any two places?", sentence)


def _norms(plan: Plan, seen: Observation) -> Chart:
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


def _trials(plan: Plan) -> Chart | None:
    try:
        scores = _CollapseScores.model_validate(plan.scores)
    except ValidationError:
        return None
    if not scores.trials:
        return None
    made = canvas("trial", "similarity to the dense output", x_range=(0, len(scores.trials) + 1))
    whole_numbers(made)
    groups = []
    for accepted, label, colour, marker in ((False, "rejected", DENSE, "circle"), (True, "merged", MERGED, "diamond")):
        rows = [(i + 1, trial) for i, trial in enumerate(scores.trials) if trial.accepted is accepted]
        if rows:
            groups.append(
                made.scatter(
                    "x", "y", color=colour, marker=marker, size=13 if accepted else 7, legend_label=label,
                    source={
                        "x": [i for i, _ in rows],
                        "y": [trial.similarity for _, trial in rows],
                        "first": [trial.start for _, trial in rows],
                        "last": [trial.stop - 1 for _, trial in rows],
                        "label": [label] * len(rows),
                    },
                )
            )  # fmt: skip
    if scores.threshold is not None:
        rule(made, scores.threshold, REMOVED)
    hover(made, groups, [("", "@label"), ("layers", "@first to @last"), ("similarity", "@y{0.0000}")])
    sentence = f"{len(scores.trials)} merges were tried, in this order."
    if scores.threshold is not None:
        sentence += f" The dashed line is the threshold that every merge passes, {scores.threshold:.4f}."
    if scores.loss is not None:
        sentence += f" Together they make perplexity on the sentences {words.ratio(scores.loss.perplexity_ratio)}."
    return finish(made, "trials", "The search for merges", sentence, wide=True)


def _training(curve: Curve, index: int) -> Chart:
    made = canvas(
        "optimiser steps", {"mse": "mean squared error"}.get(curve.loss, "relative squared error"), y_axis_type="log"
    )
    rule(made, curve.dropped, REMOVED)
    made.line(*map(list, zip(*curve.train, strict=True)), color=DENSE, alpha=0.7, legend_label="training")
    steps, losses = map(list, zip(*curve.validation, strict=True))
    points = line(made, steps, losses, "held out", COMPRESSED)
    made.scatter([curve.best_step], [curve.best], size=14, color=COMPRESSED, marker="diamond", legend_label="kept")
    hover(made, [points], [("step", "@x"), ("held-out loss", "@y{0.0000}")], along_x=True)
    sentence = (
        f"The dashed line is the loss of putting nothing back ({curve.dropped:.4g}); kept are the weights of step "
        f"{curve.best_step:,} ({curve.best:.4g})."
    )
    return finish(made, f"training-{index}", "Training what was put back", sentence)
