"""The charts of one run, each from a part of what its folder holds; a chart whose data is not there is left out."""

from __future__ import annotations

from lowrise.plan import Plan
from lowrise.report import words
from lowrise.report.charts import COMPRESSED, DENSE, MERGED, REMOVED, REPLACED, Axis, Chart, Points, Rule
from lowrise.report.folder import Contents
from lowrise.report.healing import healing_charts
from lowrise.report.observation_figures import layers_chart, norms_chart, pairs_chart
from lowrise.report.score_figures import speed_chart, tasks_chart
from lowrise.report.search_figures import bridges_chart, search_chart, weights_chart
from lowrise.report.training_figure import training_chart
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
    seen, edits = contents.observation, contents.plan.edits
    found: list[Chart | None] = [
        scores_chart(contents.plan, contents.scores),
        *([] if seen is None else [draw(seen, edits) for draw in (layers_chart, norms_chart, pairs_chart)]),
        *(training_chart(curve, index) for index, curve in enumerate(contents.curves)),
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
    last = [start + n - 1 for start in range(count)]
    marks = [Points(label="every span", x=range(count), y=scores.cosine, colour=DENSE, columns={"stop": last})]
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
            marks.append(
                Points(
                    label=label, x=[start], y=[scores.cosine[start]], colour=colour, marker=marker, dash=None,
                    size=15 if marker == "diamond" else 10, hover=False,
                )
            )  # fmt: skip
    return Chart(
        id="spans",
        title="Which span was chosen?",
        sentence=f"Of all {count} spans of {n} layers, the criterion takes the one whose ends are most alike.",
        x=Axis(f"first layer of a span of {n}", low=-0.7, high=count - 0.3, whole=True),
        y=Axis("cosine of its two ends"),
        marks=marks,
        hover=[("layers", "@x to @stop"), ("cosine", "@y{0.0000}")],
        along_x=True,
        height=260,
        wide=True,
    )


def _trials(scores: MergeSearchScores) -> Chart | None:
    if not scores.trials:
        return None
    marks = []
    for accepted, label, colour, marker in ((False, "rejected", DENSE, "circle"), (True, "merged", MERGED, "diamond")):
        rows = {number: trial for number, trial in enumerate(scores.trials, 1) if trial.accepted is accepted}
        if rows:
            ends = {
                "first": [trial.start for trial in rows.values()],
                "last": [trial.stop - 1 for trial in rows.values()],
            }
            marks.append(
                Points(
                    label=label, x=[*rows], y=[trial.similarity for trial in rows.values()], colour=colour,
                    marker=marker, size=13 if accepted else 7, dash=None, columns=ends,
                )
            )  # fmt: skip
    sentence = f"{len(scores.trials)} merges were tried, in this order."
    if scores.threshold is not None:
        sentence += f" The dashed line is the threshold that every merge passes, {scores.threshold:.4f}."
    if scores.loss.perplexity_ratio is not None:
        sentence += f" Together they make perplexity on the sentences {words.ratio(scores.loss.perplexity_ratio)}."
    return Chart(
        id="trials",
        title="The search for merges",
        sentence=sentence,
        x=Axis("trial", low=0, high=len(scores.trials) + 1, whole=True),
        y=Axis("similarity to the dense output"),
        marks=marks,
        rules=[] if scores.threshold is None else [Rule(scores.threshold, REMOVED, "threshold")],
        hover=[("", "@label"), ("layers", "@first to @last"), ("similarity", "@y{0.0000}")],
        wide=True,
    )
