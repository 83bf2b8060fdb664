"""LLM-Streamline's criterion: the span whose ends are most alike.

https://arxiv.org/abs/2403.19135, equation 1: start*(n) = argmax over l of E cos(h[l], h[l+n]).
"""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.observe.stream import Observation
from lowrise.select.choice import no_span_without, spans_without


@dataclass(frozen=True)
class SpanChoice:
    """The chosen span, the published one, and the best without a writer of massive activations (None: no such)."""

    start: int
    stop: int
    published: int
    """Where the span of the highest cosine starts."""
    without_writers: int | None
    scores: dict[str, object]


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
