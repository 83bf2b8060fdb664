"""LLM-Streamline's criterion: the span whose input and output are most alike.

https://arxiv.org/abs/2403.19135, equation 1: start*(n) = argmax over l of E cos(h[l], h[l+n]).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lowrise.observe.stream import Observation
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, Cost, no_span_without, none_allowed, spans_without
from lowrise.select.selection import Selection


@dataclass(frozen=True)
class SpanChoice:
    """The chosen span, the published one, and the best without a writer of massive activations (None: no such)."""

    start: int
    stop: int
    published: int
    """Where the span of the highest cosine starts."""
    without_writers: int | None
    scores: dict[str, object]
    cost: Cost | None = None


def choose(selection: Selection) -> Choice:
    n = selection.count
    span = choose_span(selection.observation, n, selection.recipe.avoid_massive, selection.cuts, selection.left)
    other, way_out = span.without_writers, "every span of this length holds one"
    if other is not None:
        way_out = f"the best span without one is [{other}, {other + n}): --avoid-massive takes it"
    return Choice([(span.start, span.stop)], span.scores, way_out=way_out, cost=span.cost)


def choose_span(
    observation: Observation, n: int, avoid_massive: bool, cuts: AllowedCuts | None = None, left: int = 0
) -> SpanChoice:
    """The span of n layers with the highest mean cosine, as published.

    avoid_massive: among the spans that hold no layer that writes massive activations.
    cuts: among the spans that are allowed; left: the first so many layers of a span stay, in what stands there.
    Raises RecipeError when every span of n layers holds one, and when no other is allowed.
    """
    cosine = observation.similarity.cosine(n)
    writers = observation.massive.writers()
    free = spans_without(writers, len(cosine), n)
    if avoid_massive and not free:
        raise no_span_without(writers, n)

    def highest(starts: Iterable[int]) -> int:
        return max(starts, key=lambda start: float(cosine[start]))

    published = int(cosine.argmax())
    start, cost, allowed = highest(free) if avoid_massive else published, None, free
    if cuts is not None and cuts.restricted:
        allowed = [one for one in cuts.spans(n, left=left) if one in free]
        may_go = allowed if avoid_massive else cuts.spans(n, left=left)
        if not may_go:
            raise none_allowed(cuts, n)
        best, start = start, highest(may_go)
        cost = Cost("cosine", float(cosine[start]), float(cosine[best]), [(best, best + n)])
    without = highest(allowed) if allowed else None
    scores: dict[str, object] = {
        "criterion": "cosine",
        "span": n,
        "cosine": cosine.tolist(),
        "relative_error": observation.similarity.relative_error(n).tolist(),
        "massive_activations": observation.massive.data(),
        "published_start": published,
        "start_without_massive_writers": without,
    }
    return SpanChoice(start, start + n, published, without, scores, cost)
