"""What a criterion answers: which layers go, and the numbers that speak for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowrise.errors import RecipeError
from lowrise.plan import Merge


@dataclass(frozen=True)
class Choice:
    """spans: [start, stop) of the original layers, in order, never adjacent. scores: for the plan, plain JSON.

    merges: what is to be done where spans are neither dropped nor replaced, one for each of them; None: they are.
    way_out: what to do where a criterion by states has chosen a layer that writes massive activations.
    """

    spans: list[tuple[int, int]]
    scores: dict[str, Any]
    merges: list[Merge] | None = None
    way_out: str = "--avoid-massive keeps it"


def spans_of(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Layers in any order → spans in order; adjacent layers share one."""
    spans: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if spans and spans[-1][1] == layer:
            spans[-1] = (spans[-1][0], layer + 1)
        else:
            spans.append((layer, layer + 1))
    return spans


def as_text(spans: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"[{start}, {stop})" for start, stop in spans)


def round_of(gone: int, losses: Mapping[int, float], layers: int) -> dict[str, Any]:
    """For the plan: a round of a search that took `gone`. losses: of the layers tried; null for the others."""
    return {"removed": gone, "loss": losses[gone], "losses": [losses.get(layer) for layer in range(layers)]}


def choice_of_rounds(criterion: str, dense_loss: float, rounds: list[dict[str, Any]]) -> Choice:
    """What a search that takes one layer a round has chosen."""
    layers = [one["removed"] for one in rounds]
    loss = {"dense": dense_loss, "after": rounds[-1]["loss"]}
    return Choice(spans_of(layers), {"criterion": criterion, "layers": layers, "loss": loss, "rounds": rounds})


def spans_without(writers: Sequence[int], starts: int, n: int) -> list[int]:
    """Where spans of n layers begin, of 0..starts-1, that hold no layer that writes massive activations."""
    return [start for start in range(starts) if not any(start <= writer < start + n for writer in writers)]


def no_span_without(writers: Sequence[int], n: int) -> RecipeError:
    """What `--avoid-massive` is answered with where every span of n layers holds a writer."""
    return RecipeError(
        "--avoid-massive",
        f"a span of {n} layers without one that writes massive activations",
        f"writers {writers} in every span",
        "remove fewer layers, or leave --avoid-massive out",
    )


def lowest(values: Sequence[float] | Mapping[int, float], k: int, among: Iterable[int]) -> list[int]:
    """The `k` indices of the smallest values, smallest first; of equal ones the lower index.

    What is not a number comes last: a layer whose measure failed is not the one to drop.
    """
    return sorted(among, key=lambda index: (math.isnan(values[index]), values[index], index))[:k]
