"""The charts of criteria that look at layers one by one: what each weighs, or what each would cost, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowrise.plan import Plan
from lowrise.report import words
from lowrise.report.charts import DENSE, REMOVED, SERIES, Axis, Chart, Points
from lowrise.scores import Finalist, GreedyScores, RefitScores, RefitSpanScores


def search_chart(scores: GreedyScores | RefitScores) -> Chart:
    """First and last round of a search that takes one layer a round, and what went, each at its round's value."""
    rounds = scores.rounds
    finalists = scores.finalists if isinstance(scores, RefitScores) else []
    what = "loss" if rounds[0].divergences is None else "divergence"
    marks = []
    for number in dict.fromkeys((0, len(rounds) - 1)):
        tried = {layer: value for layer, value in enumerate(rounds[number].values) if value is not None}
        label, colour = f"tried in round {number + 1}", DENSE if number == 0 else SERIES[0]
        columns = {"round": [number + 1] * len(tried)}
        marks.append(Points(label=label, x=[*tried], y=[*tried.values()], colour=colour, columns=columns))
    gone, met = [one.removed for one in rounds], [one.values[one.removed] for one in rounds]
    columns = {"round": [*range(1, len(rounds) + 1)]}
    marks.append(_taken_out(gone, met, "lowest of its round" if finalists else "taken out", columns))
    sentence = f"{len(rounds)} rounds, each without the layer of the lowest {what} on what the rounds before left."
    if finalists:
        sentence += f" In the end whole choices were repaired: {_compared(finalists)}; the lowest was taken."
    return Chart(
        id="search",
        title="What would one layer less cost?",
        sentence=sentence,
        x=Axis("layer", whole=True),
        y=Axis(f"held-out {what} without it" if what == "divergence" else "loss without it"),
        marks=marks,
        hover=[("layer", "@x"), ("round", "@round"), (what, "@y{0.0000}")],
        height=280,
        wide=True,
    )


def bridges_chart(plan: Plan, scores: RefitSpanScores) -> Chart | None:
    """Every span of a search for one, by the layer where it begins."""
    known = {start: value for start, value in enumerate(scores.divergences) if value is not None}
    if not known:
        return None
    gone = {start: value for start, value in known.items() if start in {edit.start for edit in plan.edits}}
    without = "one layer" if scores.span == 1 else f"{scores.span} layers"
    repaired = "what the layer before writes solved anew" if scores.bridged else "nothing repaired"
    return Chart(
        id="bridges",
        title="Which layers are missed least?",
        sentence=f"Each without {without}, {repaired}; all starts were tried but the first layer.",
        x=Axis("first layer of the span", whole=True),
        y=Axis("held-out divergence without it"),
        marks=[
            Points(label="every span", x=[*known], y=[*known.values()], colour=DENSE),
            _taken_out([*gone], [*gone.values()]),
        ],
        hover=[("layer", "@x"), ("divergence", "@y{0.0000}")],
        height=280,
        wide=True,
    )


def weights_chart(what: str, values: Sequence[float | None], taken: Sequence[int]) -> Chart | None:
    """What a criterion that weighs every layer once found. what: the name of a weight; taken: the layers that went."""
    known = {layer: value for layer, value in enumerate(values) if value is not None and value > 0}
    if not known:
        return None
    gone = {layer: value for layer, value in known.items() if layer in taken}
    return Chart(
        id="weights",
        title="What does each layer weigh?",
        sentence=f"The lowest {what} goes first.",
        x=Axis("layer", whole=True),
        y=Axis(what, log=True),
        marks=[
            Points(label="every layer", x=[*known], y=[*known.values()], colour=DENSE),
            _taken_out([*gone], [*gone.values()]),
        ],
        hover=[("layer", "@x"), (what, "@y{0.0000}")],
        height=280,
        wide=True,
    )


def _compared(finalists: list[Finalist]) -> str:
    """`without layers 12–19 held-out divergence is 0.2140, without layer 3, layers 5–11 it is 0.2310`."""
    order = sorted(finalists, key=lambda each: (math.isnan(each.divergence), each.divergence))
    (first, least), *others = ((", ".join(words.span(*one) for one in each.spans), each.divergence) for each in order)
    said = f"without {first} held-out divergence is {least:.4f}"
    return said + "".join(f", without {layers} it is {divergence:.4f}" for layers, divergence in others)


def _taken_out(
    x: Sequence[int], y: Sequence[float | None], label: str = "taken out", columns: dict[str, list[int]] | None = None
) -> Points:
    return Points(label=label, x=x, y=y, colour=REMOVED, marker="diamond", size=13, dash=None, columns=columns or {})
