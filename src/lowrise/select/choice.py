"""What a criterion answers: which layers go, and the numbers that speak for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """spans: [start, stop) of the original layers, in order, never adjacent. scores: for the plan, plain JSON."""

    spans: list[tuple[int, int]]
    scores: dict[str, Any]


def spans_of(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Layers in any order → spans in order; adjacent layers share one."""
    spans: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if spans and spans[-1][1] == layer:
            spans[-1] = (spans[-1][0], layer + 1)
        else:
            spans.append((layer, layer + 1))
    return spans


def lowest(values: Sequence[float] | Mapping[int, float], k: int, among: Iterable[int]) -> list[int]:
    """The `k` indices of the smallest values, smallest first; of equal ones the lower index.

    What is not a number comes last: a layer whose measure failed is not the one to drop.
    """
    return sorted(among, key=lambda index: (math.isnan(values[index]), values[index], index))[:k]
