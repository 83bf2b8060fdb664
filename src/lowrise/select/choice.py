"""What a criterion answers: which layers go, and the numbers that speak for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowrise.errors import RecipeError
from lowrise.plan import Merge
from lowrise.restriction import AllowedCuts


@dataclass(frozen=True)
class Cost:
    """The best cut that there would be without restrictions, beside the one that was chosen.

    score: what of them is compared; chosen, best: its values. spans: of that best cut.
    """

    score: str
    chosen: float
    best: float
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Choice:
    """spans: [start, stop) of the original layers, in order, never adjacent. scores: for the plan, plain JSON.

    merges: what is to be done where spans are neither dropped nor replaced, one for each of them; None: they are.
    way_out: what to do where a criterion by states has chosen a layer that writes massive activations. cost: of
    restrictions, where the criterion knows it.
    """

    spans: list[tuple[int, int]]
    scores: dict[str, Any]
    merges: list[Merge] | None = None
    way_out: str = "--avoid-massive keeps it"
    cost: Cost | None = None


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


def lowest_allowed(
    values: Sequence[float], k: int, may_go: Sequence[int], cuts: AllowedCuts, score: str
) -> tuple[list[int], Cost | None]:
    """As `lowest`, and what was paid for it: of the sets of k layers that are allowed the one of the least total.

    score: what a total of `values` is called. Raises RecipeError where no k layers of those that may go are allowed.
    """
    best = lowest(values, k, may_go)
    if not cuts.restricted:
        return best, None
    found = cuts.least(values, k, stays=[layer for layer in range(cuts.layers) if layer not in may_go])
    if found is None:
        raise none_allowed(cuts, k)
    chosen, unrestricted = (math.fsum(values[layer] for layer in layers) for layers in (found, best))
    return lowest(values, k, found), Cost(score, chosen, unrestricted, spans_of(best))


def lowest_span(
    values: Sequence[float], k: int, may_go: Sequence[int], cuts: AllowedCuts, score: str
) -> tuple[int, Cost | None]:
    """Where the allowed span of k layers with the lowest of `values`, which are by start, begins; and what was paid for
    it. Raises RecipeError where none of those that may go is allowed.
    """
    (best,) = lowest(values, 1, may_go)
    if not cuts.restricted:
        return best, None
    allowed = {*cuts.spans(k)} & {*may_go}
    if not allowed:
        raise none_allowed(cuts, k)
    (found,) = lowest(values, 1, allowed)
    return found, Cost(score, values[found], values[best], [(best, best + k)])


def none_allowed(cuts: AllowedCuts, k: int) -> RecipeError:
    """What is answered where no k of the layers that a criterion would take are an allowed cut."""
    return RecipeError(
        "--remove",
        f"layers whose cut can be expressed: {'; '.join(cuts.reasons)}",
        f"no {k} of those that may go",
        "remove another number of layers, or choose another preset",
    )


def breaks(cuts: AllowedCuts, spans: Iterable[tuple[int, int]]) -> list[str]:
    """Reasons why these spans cannot go; none where they can."""
    gone = {layer for start, stop in spans for layer in range(start, stop)}
    return cuts.broken([layer for layer in range(cuts.layers) if layer not in gone])


def not_allowed(where: str, cuts: AllowedCuts, spans: list[tuple[int, int]], remedy: str) -> RecipeError:
    """Of spans that cannot go."""
    reasons = "; ".join(breaks(cuts, spans))
    return RecipeError(where, f"layers whose cut can be expressed: {reasons}", f"{as_text(spans)} to go", remedy)


def lowest(values: Sequence[float] | Mapping[int, float], k: int, among: Iterable[int]) -> list[int]:
    """The `k` indices of the smallest values, smallest first; of equal ones the lower index.

    What is not a number comes last: a layer whose measure failed is not the one to drop.
    """
    return sorted(among, key=lambda index: (math.isnan(values[index]), values[index], index))[:k]
