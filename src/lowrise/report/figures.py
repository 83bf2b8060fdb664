"""The charts of one run, each from a part of what its folder holds; a chart whose data is not there is left out."""

from __future__ import annotations

from lowrise.plan import Plan
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
    whole_numbers,
)
from lowrise.report.folder import Contents
from lowrise.report.healing import healing_charts
from lowrise.report.observation_figures import layers_chart, norms_chart, pairs_chart
from lowrise.report.score_figures import speed_chart, tasks_chart
from lowrise.report.search_figures import bridges_chart, search_chart, weights_chart
from lowrise.results import Curve
from lowrise.scores import (
    CosineScores,
    GreedyScores,
    InfluenceScores,
    MergeSearchScores,
    RefitScores,
    RefitSpanScores,
    Scores,
    TaylorScores,
)


def charts_of(contents: Contents) -> dict[str, Chart]:
    """By name: layers, spans, pairs, norms, trials, search, bridges, weights, training-N, healing,
    healing-training, tasks, speed.
    """
    seen = contents.observation
    found: list[Chart | None] = [
        scores_chart(contents.plan, contents.scores),
        *(
            []
            if seen is None
            else [layers_chart(contents.plan, seen), norms_chart(contents.plan, seen), pairs_chart(contents.plan, seen)]
        ),
        *(_training(curve, index) for index, curve in enumerate(contents.curves)),
        *([] if contents.results.healing is None else healing_charts(contents.results.healing)),
        tasks_chart(contents),
        speed_chart(contents),
    ]
    return {chart.id: chart for chart in found if chart is not None}


def scores_chart(plan: Plan, scores: Scores) -> Chart | None:
    """What the criterion found; None of one that has no picture, or found nothing to draw."""
    match scores:
        case CosineScores():
            return _spans(plan, scores)
        case MergeSearchScores():
            return _trials(scores)
        case GreedyScores() | RefitScores():
            return search_chart(scores)
        case RefitSpanScores():
            return bridges_chart(plan, scores)
        case InfluenceScores():
            return weights_chart("influence", scores.influence, scores.layers)
        case TaylorScores():
            return weights_chart("importance", scores.importance, scores.layers)
    return None


def _spans(plan: Plan, scores: CosineScores) -> Chart:
    n, count = scores.span, len(scores.cosine)
    made = canvas(f"first layer of a span of {n}", "cosine of its two ends", height=260, x_range=(-0.7, count - 0.3))
    whole_numbers(made)
    last = [start + n - 1 for start in range(count)]
    points = line(made, range(count), scores.cosine, "every span", DENSE, stop=last)
    taken = next((edit.start for edit in plan.edits), scores.published_start)
    for start, label, colour, marker in (
        (taken, "taken" if taken != scores.published_start else "taken, the most alike", REMOVED, "diamond"),
        (scores.published_start, "most alike", REPLACED, "circle"),
        (
            scores.start_without_massive_writers,
            "most alike without a writer of massive activations",
            COMPRESSED,
            "square",
        ),
    ):
        if start is not None and start < count and (start != taken or marker == "diamond"):
            size = 15 if marker == "diamond" else 10
            made.scatter([start], [scores.cosine[start]], size=size, color=colour, marker=marker, legend_label=label)
    hover(made, [points], [("layers", "@x to @stop"), ("cosine", "@y{0.0000}")], along_x=True)
    sentence = f"Of all {count} spans of {n} layers, the criterion takes the one whose ends are most alike."
    return finish(made, "spans", "Which span was chosen?", sentence, wide=True)


def _trials(scores: MergeSearchScores) -> Chart | None:
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
    if scores.loss.perplexity_ratio is not None:
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
        f"The dashed line is the loss of putting nothing back ({words.four_digits(curve.dropped)}); kept are the "
        f"weights of step {curve.best_step:,} ({words.four_digits(curve.best)})."
    )
    return finish(made, f"training-{index}", "Training what was put back", sentence)
