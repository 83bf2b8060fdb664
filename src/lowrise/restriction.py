"""Cuts that what reads the result can express: some settings, and some engines, tell a layer's kind by its number.

A restriction names the kind of every layer and, for each depth, which sequences of kinds can be expressed. A cut is
allowed if the kinds of the layers that are kept, in order, are one of these. So a set of layers can still be extended
to an allowed cut if such a sequence is a subsequence of what is left, and the cheapest allowed cut is found by dynamic
programming over a sequence. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

Kinds = tuple[str, ...]
_Pattern = tuple[Kinds, ...]  # of each kept layer, its kind by every restriction
_Cost = tuple[int, int, float]  # how many are no numbers, how many infinite, the sum of the others


@dataclass(frozen=True)
class Restriction:
    """Cuts that a setting or an engine can express: the kinds of the kept layers, in order, must be one of
    `patterns(depth)`.

    reason: one sentence for people, without the full stop: who reads what from the layer's number. kinds: of every
    layer 0..L-1 of the uncut model. patterns: kept depth -> sequences of kinds, each of that length; empty: no cut to
    that depth can be expressed. None of them need be reachable from `kinds`.
    """

    reason: str
    kinds: Kinds
    patterns: Callable[[int], Sequence[Kinds]]

    def allows(self, kept: Sequence[int]) -> bool:
        """Whether the layers `kept`, of the original, can be all that is left."""
        kinds = tuple(self.kinds[layer] for layer in sorted(kept))
        return any(tuple(pattern) == kinds for pattern in self.patterns(len(kinds)))


class AllowedCuts:
    """The cuts of a model of `layers` layers that every restriction allows. Without restrictions all are allowed.

    gone: layers that are taken out already. stays: layers that are never taken out. n: layers to take out in all.
    Raises ValueError for a restriction of another number of layers.
    """

    def __init__(self, layers: int, restrictions: Sequence[Restriction] = ()) -> None:
        other = [len(one.kinds) for one in restrictions if len(one.kinds) != layers]
        if other:
            raise ValueError(f"a restriction of {other[0]} layers for a model of {layers}")
        self.layers = layers
        self.restrictions = tuple(restrictions)
        self._kinds: list[Kinds] = [tuple(one.kinds[layer] for one in restrictions) for layer in range(layers)]
        self._known: dict[int, dict[_Pattern, None]] = {}  # in order

    @property
    def restricted(self) -> bool:
        return bool(self.restrictions)

    @property
    def reasons(self) -> list[str]:
        """Of all restrictions, each once."""
        return list(dict.fromkeys(one.reason for one in self.restrictions))

    def allows(self, kept: Collection[int]) -> bool:
        kinds = tuple(self._kinds[layer] for layer in sorted(kept))
        return kinds in self._patterns(self.layers - len(kinds))

    def broken(self, kept: Collection[int]) -> list[str]:
        """Reasons of the restrictions that do not allow these layers to be all that is left."""
        return list(dict.fromkeys(one.reason for one in self.restrictions if not one.allows(sorted(kept))))

    def extends(self, gone: Collection[int], n: int, stays: Collection[int] = ()) -> bool:
        """Whether an allowed cut of n layers takes all of `gone` out."""
        return any(self._after(pattern, gone, stays)[-1] >> len(pattern) & 1 for pattern in self._patterns(n))

    def removable(self, n: int, gone: Collection[int] = (), stays: Collection[int] = ()) -> list[int]:
        """Layers of which each alone can go next: with it and `gone`, an allowed cut of n layers can be reached."""
        found = set[int]()
        may_go = [layer for layer in range(self.layers) if layer not in gone and layer not in stays]
        for pattern in self._patterns(n):
            after, before = self._after(pattern, gone, stays), self._before(pattern, gone, stays)
            found |= {layer for layer in may_go if after[layer] & before[layer + 1]}
        return sorted(found)

    def least(self, scores: Sequence[float], n: int, stays: Collection[int] = ()) -> list[int] | None:
        """The n layers, in order, of the least total score whose cut is allowed; None where there is no such cut.

        scores: of every layer. What is not a number comes last. Of equal totals the cut whose first layers are lower.
        """
        costs = [_cost(score) for score in scores]
        found = [self._cheapest(pattern, costs, stays) for pattern in self._patterns(n)]
        return min((one for one in found if one is not None), default=(None, None))[1]

    def spans(self, n: int, stays: Collection[int] = (), left: int = 0) -> list[int]:
        """Where spans of n layers begin that may go. left: the first so many of a span stay, as what it becomes."""
        starts = range(self.layers - n + 1) if n - left < self.layers else range(0)
        gone = {start: set(range(start + left, start + n)) for start in starts}
        return [
            start
            for start, layers in gone.items()
            if layers.isdisjoint(stays) and self.allows([one for one in range(self.layers) if one not in layers])
        ]

    def depths(self, stays: Collection[int] = ()) -> list[int]:
        """Numbers of layers that an allowed cut can leave, of 1..L-1."""
        return [depth for depth in range(1, self.layers) if self.extends((), self.layers - depth, stays)]

    def _patterns(self, n: int) -> Collection[_Pattern]:
        """What the n layers of a cut may leave, kinds of all restrictions side by side, as far as the model has them in
        that order.
        """
        depth = self.layers - n
        if not 0 < depth <= self.layers:
            return []
        if depth not in self._known:
            patterns: list[_Pattern] = [((),) * depth]
            for number, one in enumerate(self.restrictions, 1):
                kinds = [kind[:number] for kind in self._kinds]
                own = dict.fromkeys(map(tuple, one.patterns(depth)))
                there = [more for more in own if _is_subsequence(more, one.kinds)]
                both = (
                    tuple((*before, kind) for before, kind in zip(pattern, more, strict=True))
                    for pattern in patterns
                    for more in there
                )
                patterns = [pattern for pattern in both if _is_subsequence(pattern, kinds)]
            self._known[depth] = dict.fromkeys(patterns)
        return self._known[depth]

    def _after(self, pattern: _Pattern, gone: Collection[int], stays: Collection[int]) -> list[int]:
        """By l = 0..L, how many layers of the pattern the layers below l can be: bit j says that they can be the first
        j of it.
        """
        places, states = _places(pattern), [1]
        for layer, kind in enumerate(self._kinds):
            kept = 0 if layer in gone else (states[-1] & places.get(kind, 0)) << 1
            states.append(kept if layer in stays else kept | states[-1])
        return states

    def _before(self, pattern: _Pattern, gone: Collection[int], stays: Collection[int]) -> list[int]:
        """By l = 0..L, bit j says that the layers from l on can be all of the pattern but its first j."""
        places, states = _places(pattern), [1 << len(pattern)]
        for layer in reversed(range(self.layers)):
            kept = 0 if layer in gone else (states[-1] >> 1) & places.get(self._kinds[layer], 0)
            states.append(kept if layer in stays else kept | states[-1])
        return states[::-1]

    def _cheapest(
        self, pattern: _Pattern, costs: list[_Cost], stays: Collection[int]
    ) -> tuple[_Cost, list[int]] | None:
        """(cost, layers that go) of the cheapest cut that leaves this pattern."""
        depth = len(pattern)
        n = self.layers - depth
        # of layers l.., if the layers below are the first j of the pattern, by j: the least cost; at l = L, j = depth
        least: list[dict[int, _Cost]] = [{depth: (0, 0, 0.0)}]
        for layer in reversed(range(self.layers)):
            above, here = least[-1], dict[int, _Cost]()
            for j in range(max(0, layer - n), min(layer, depth) + 1):
                ways = []
                if layer not in stays and j in above:
                    ways.append(_sum(costs[layer], above[j]))
                if j + 1 in above and pattern[j] == self._kinds[layer]:
                    ways.append(above[j + 1])
                if ways:
                    here[j] = min(ways)
            least.append(here)
        least.reverse()
        if 0 not in least[0]:
            return None
        gone, j = list[int](), 0
        for layer in range(self.layers):
            above = least[layer + 1]
            if layer not in stays and j in above and _sum(costs[layer], above[j]) == least[layer][j]:
                gone.append(layer)
            else:
                j += 1
        return least[0][0], gone


def _places(pattern: _Pattern) -> dict[Kinds, int]:
    """By kind, where a pattern has it, as bits."""
    places: dict[Kinds, int] = {}
    for j, kind in enumerate(pattern):
        places[kind] = places.get(kind, 0) | 1 << j
    return places


def _is_subsequence(pattern: Sequence[object], kinds: Sequence[object]) -> bool:
    left = iter(kinds)
    return all(kind in left for kind in pattern)


def _cost(score: float) -> _Cost:
    return (1, 0, 0.0) if math.isnan(score) else (0, 1, 0.0) if score == math.inf else (0, 0, score)


def _sum(a: _Cost, b: _Cost) -> _Cost:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
