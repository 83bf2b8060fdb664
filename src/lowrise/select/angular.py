"""UIDL's criterion (also PruneMe's): the span whose ends are least apart, as an angle, at the last token.

https://arxiv.org/abs/2403.17887: start*(n) = argmin over l of E arccos(cos(h[l], h[l+n])) / π.
"""

from __future__ import annotations

from lowrise.observe.stream import Observation
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, lowest_span, no_span_without, spans_without
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    return choose_by_angle(selection.observation, selection.count, selection.recipe.avoid_massive, selection.cuts)


def choose_by_angle(observation: Observation, k: int, avoid_massive: bool, cuts: AllowedCuts | None = None) -> Choice:
    """The span of k layers with the smallest mean angular distance, as published.

    avoid_massive: among the spans that hold no layer that writes massive activations. cuts: among those that are
    allowed. Raises RecipeError without one.
    """
    distance = observation.angular.distance(k).tolist()
    writers = observation.massive.writers()
    may_go = spans_without(writers if avoid_massive else [], len(distance), k)
    if not may_go:
        raise no_span_without(writers, k)
    start, cost = lowest_span(distance, k, may_go, cuts or AllowedCuts(len(distance) + k - 1), "angular distance")
    scores = {
        "criterion": "angular",
        "span": k,
        "angular_distance": distance,
        "massive_activations": observation.massive.data(),
    }
    return Choice([(start, start + k)], scores, cost=cost)
