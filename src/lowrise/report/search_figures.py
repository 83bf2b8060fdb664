"""The charts of criteria that look at layers one by one: what each weighs, or what each would cost, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lowrise.plan import Plan
from lowrise.report import words
from lowrise.report.charts import DENSE, REMOVED, SERIES, Chart, canvas, finish, hover, line, whole_numbers
from lowrise.scores import Finalist, GreedyScores, RefitScores, RefitSpanScores


def search_chart(scores: GreedyScores | RefitScores) -> Chart:
    """First and last round of a search that takes one layer a round, and what went, each at its round's value."""
    rounds = scores.rounds
    finalists = scores.finalists if isinstance(scores, RefitScores) else []
    what = "loss" if rounds[0].divergences is None else "divergence"
    made = canvas("layer", f"held-out {what} without it" if what == "divergence" else "loss without it", height=280)
    whole_numbers(made)
    marks = []
    for number in dict.fromkeys((0, len(rounds) - 1)):
        tried = [(layer, value) for layer, value in enumerate(rounds[number].values) if value is not None]
        layers, values = map(list, zip(*tried, strict=True))
        label, colour = f"tried in round {number + 1}", DENSE if number == 0 else SERIES[0]
        marks.append(line(made, layers, values, label, colour, round=[number + 1] * len(layers)))
    gone = {
        "x": [one.removed for one in rounds],
        "y": [one.values[one.removed] for one in rounds],
        "round": list(range(1, len(rounds) + 1)),
    }
    marks.append(_taken_out(made, gone, "lowest of its round" if finalists else "taken out"))
    hover(made, marks, [("layer", "@x"), ("round", "@round"), (what, "@y{0.0000}")])
    sentence = f"{len(rounds)} rounds, each without the layer of the lowest {what} on what the rounds before left."
    if finalists:
        sentence += f" In the end whole choices were repaired: {_compared(finalists)}; the lowest was taken."
    return finish(made, "search", "What would one layer less cost?", sentence, wide=True)


def bridges_chart(plan: Plan, scores: RefitSpanScores) -> Chart | None:
    """Every span of a search for one, by the layer where it begins."""
    known = [(start, value) for start, value in enumerate(scores.divergences) if value is not None]
    if not known:
        return None
    made = canvas("first layer of the span", "held-out divergence without it", height=280)
    whole_numbers(made)
    starts, values = map(list, zip(*known, strict=True))
    points = line(made, starts, values, "every span", DENSE)
    gone = [(start, value) for start, value in known if start in {edit.start for edit in plan.edits}]
    source = {"x": [start for start, _ in gone], "y": [value for _, value in gone]}
    hover(made, [points, _taken_out(made, source)], [("layer", "@x"), ("divergence", "@y{0.0000}")])
    without = "one layer" if scores.span == 1 else f"{scores.span} layers"
    repaired = "what the layer before writes solved anew" if scores.bridged else "nothing repaired"
    sentence = f"Each without {without}, {repaired}; all starts were tried but the first layer."
    return finish(made, "bridges", "Which layers are missed least?", sentence, wide=True)


def weights_chart(what: str, values: Sequence[float | None], taken: Sequence[int]) -> Chart | None:
    """What a criterion that weighs every layer once found. what: the name of a weight; taken: the layers that went."""
    made = canvas("layer", what, height=280, y_axis_type="log")
    whole_numbers(made)
    known = [(layer, value) for layer, value in enumerate(values) if value is not None and value > 0]
    if not known:
        return None
    layers, heights = map(list, zip(*known, strict=True))
    points = line(made, layers, heights, "every layer", DENSE)
    gone = [(layer, value) for layer, value in known if layer in taken]
    source = {"x": [layer for layer, _ in gone], "y": [value for _, value in gone]}
    hover(made, [points, _taken_out(made, source)], [("layer", "@x"), (what, "@y{0.0000}")])
    return finish(made, "weights", "What does each layer weigh?", f"The lowest {what} goes first.", wide=True)


def _compared(finalists: list[Finalist]) -> str:
    """`without layers 12–19 held-out divergence is 0.2140, without layer 3, layers 5–11 it is 0.2310`."""
    order = sorted(finalists, key=lambda each: (math.isnan(each.divergence), each.divergence))
    (first, least), *others = ((", ".join(words.span(*one) for one in each.spans), each.divergence) for each in order)
    said = f"without {first} held-out divergence is {least:.4f}"
    return said + "".join(f", without {layers} it is {divergence:.4f}" for layers, divergence in others)


def _taken_out(made: Any, source: Any, label: str = "taken out") -> Any:
    return made.scatter("x", "y", source=source, size=13, color=REMOVED, marker="diamond", legend_label=label)
