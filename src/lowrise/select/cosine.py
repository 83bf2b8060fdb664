"""LLM-Streamline's criterion: the span whose input and output are most alike.

https://arxiv.org/abs/2403.19135, equation 1: start*(n) = argmax over l of E cos(h[l], h[l+n]).
"""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.observe.stream import Observation
from lowrise.select.choice import Choice, no_span_without, spans_without
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


def choose(selection: Selection) -> Choice:
    n = selection.count
    span = choose_span(selection.observation, n, selection.recipe.avoid_massive)
    other, way_out = span.without_writers, "every span of this length holds one"
    if other is not None:
        way_out = f"the best span without one is [{other}, {other + n}): --avoid-massive takes it"
    return Choice([(span.start, span.stop)], span.scores, way_out=way_out)


def choose_span(observation: Observation, n: int, avoid_massive: bool) -> SpanChoice:
    """The span of n layers with the highest mean cosine, as published.

    avoid_massive: among the spans that hold no layer that writes massive activations.
    Raises RecipeError when every span of n layers holds one.
    """
    cosine = observation.similarity.cosine(n)
    writers = observation.massive.writers()
    free = spans_without(writers, len(cosine), n)
    published = int(cosine.argmax())
    without = max(free, key=lambda start: float(cosine[start])) if free else None
    if avoid_massive and without is None:
        raise no_span_without(writers, n)
    start = without if avoid_massive and without is not None else published
    scores: dict[str, object] = {
        "criterion": "cosine",
        "span": n,
        "cosine": cosine.tolist(),
        "relative_error": observation.similarity.relative_error(n).tolist(),
        "massive_activations": observation.massive.data(),
        "published_start": published,
        "start_without_massive_writers": without,
    }
    return SpanChoice(start, start + n, published, without, scores)
