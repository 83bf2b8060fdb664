"""Cuts that a setting or an engine can express. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Restriction:
    """Cuts whose kept layers are, in order, of kinds that one of `patterns(depth)` lists.

    reason: one sentence for people: who reads what from the layer's number. kinds: of every layer of the uncut model.
    patterns: number of kept layers -> sequences of so many kinds; none: no cut to that depth can be expressed.
    """

    reason: str
    kinds: tuple[str, ...]
    patterns: Callable[[int], Sequence[tuple[str, ...]]]

    def allows(self, kept: Sequence[int]) -> bool:
        """kept: numbers of layers of the uncut model, ascending."""
        return tuple(self.kinds[layer] for layer in kept) in [tuple(one) for one in self.patterns(len(kept))]
