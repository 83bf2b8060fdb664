"""The charts of criteria that look at layers one by one: what each weighs, or what each would cost, round by round."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from lowrise.plan import Plan
from lowrise.report import words
from lowrise.report.charts import DENSE, REMOVED, SERIES, Chart, canvas, finish, hover, line, whole_numbers


class _Round(BaseModel):
    removed: int
    losses: list[float | None]
    divergences: list[float | None] | None = None

    @model_validator(mode="after")
    def _went_by_a_number(self) -> Self:
        if not 0 <= self.removed < len(self.values) or self.values[self.removed] is None:
            raise ValueError("the layer that went was not tried")
        return self

    @property
    def values(self) -> list[float | None]:
        return self.losses if self.divergences is None else self.divergences


class _Finalist(BaseModel):
    spans: list[tuple[int, int]]
    divergence: float


class _SearchScores(BaseModel):
    rounds: list[_Round] = Field(min_length=1)
    finalists: list[_Finalist] = []


class _BridgeScores(BaseModel):
    span: int = Field(ge=1)
    bridged: bool
    divergences: list[float | None]


class _Weights(BaseModel):
    layers: list[int]
    influence: list[float] | None = None
    importance: list[float | None] | None = None


def search_chart(plan: Plan) -> Chart | None:
    """First and last round of a search that takes one layer a round, and what went, each at its round's value."""
    try:
        scores = _SearchScores.model_validate(plan.scores)
    except ValidationError:
        return None
    rounds = scores.rounds
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
    marks.append(_taken_out(made, gone, "lowest of its round" if scores.finalists else "taken out"))
    hover(made, marks, [("layer", "@x"), ("round", "@round"), (what, "@y{0.0000}")])
    sentence = f"{len(rounds)} rounds, each without the layer of the lowest {what} on what the rounds before left."
    if scores.finalists:
        sentence += f" In the end whole choices were repaired: {_compared(scores.finalists)}; the lowest was taken."
    return finish(made, "search", "What would one layer less cost?", sentence, wide=True)


def bridges_chart(plan: Plan) -> Chart | None:
    """Every span of a search for one, by the layer where it begins."""
    try:
        scores = _BridgeScores.model_validate(plan.scores)
    except ValidationError:
        return None
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


def weights_chart(plan: Plan) -> Chart | None:
    """What a criterion that weighs every layer once found."""
    try:
        scores = _Weights.model_validate(plan.scores)
    except ValidationError:
        return None
    values = scores.influence if scores.influence is not None else scores.importance
    if values is None:
        return None
    what = "influence" if scores.influence is not None else "importance"
    made = canvas("layer", what, height=280, y_axis_type="log")
    whole_numbers(made)
    known = [(layer, value) for layer, value in enumerate(values) if value is not None and value > 0]
    if not known:
        return None
    layers, heights = map(list, zip(*known, strict=True))
    points = line(made, layers, heights, "every layer", DENSE)
    gone = [(layer, value) for layer, value in known if layer in scores.layers]
    source = {"x": [layer for layer, _ in gone], "y": [value for _, value in gone]}
    hover(made, [points, _taken_out(made, source)], [("layer", "@x"), (what, "@y{0.0000}")])
    return finish(made, "weights", "What does each layer weigh?", f"The lowest {what} goes first.", wide=True)


def _compared(finalists: list[_Finalist]) -> str:
    """`without layers 12–19 held-out divergence is 0.2140, without layer 3, layers 5–11 it is 0.2310`."""
    order = sorted(finalists, key=lambda each: (math.isnan(each.divergence), each.divergence))
    (first, least), *others = ((", ".join(words.span(*one) for one in each.spans), each.divergence) for each in order)
    said = f"without {first} held-out divergence is {least:.4f}"
    return said + "".join(f", without {layers} it is {divergence:.4f}" for layers, divergence in others)


def _taken_out(made: Any, source: Any, label: str = "taken out") -> Any:
    return made.scatter("x", "y", source=source, size=13, color=REMOVED, marker="diamond", legend_label=label)
