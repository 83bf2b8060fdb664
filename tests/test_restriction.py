"""Which cuts are allowed, against all cuts of small models, one by one."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest

from lowrise.restriction import AllowedCuts, Restriction

LAYERS = 8


def _period(kinds: str, period: int) -> Restriction:
    """Every `period`-th layer is of kind B, as the number says."""
    return Restriction(
        f"every {period}th", tuple(kinds), lambda depth: [tuple("AB"[(i + 1) % period == 0] for i in range(depth))]
    )


def _boundary(kinds: str) -> Restriction:
    """Layers of kind A come before those of kind B."""
    return Restriction("A first", tuple(kinds), lambda depth: [("A",) * a + ("B",) * (depth - a) for a in range(depth)])


def _drawn(seed: int) -> list[Restriction]:
    """One to three restrictions, of two or three kinds, of patterns of which some can be reached."""
    draw = random.Random(seed)
    found = []
    for number in range(draw.randint(1, 3)):
        kinds = tuple(draw.choices("ABC"[: draw.randint(2, 3)], k=LAYERS))
        patterns: dict[int, list[tuple[str, ...]]] = {}
        for depth in range(LAYERS + 1):
            reached = list(itertools.combinations(kinds, depth))
            some = draw.sample(reached, min(len(reached), draw.randint(0, 12)))
            patterns[depth] = [*some, tuple(draw.choices("ABC", k=depth))]
        found.append(Restriction(f"drawn {number}", kinds, patterns.__getitem__))
    return found


def _all_cuts(restrictions: Sequence[Restriction], n: int, stays: Sequence[int]) -> list[tuple[int, ...]]:
    """Sets of n layers that may go, by trying each."""
    return [
        gone
        for gone in itertools.combinations([layer for layer in range(LAYERS) if layer not in stays], n)
        if all(one.allows([layer for layer in range(LAYERS) if layer not in gone]) for one in restrictions)
    ]


CASES = [[], [_period("ABABABAB", 2)], [_period("AAABAAAB", 4)], [_boundary("AAABBBBB")], [_boundary("BABABABA")]]
CASES += [[_period("ABABABAB", 2), _boundary("AAABBBBB")], *map(_drawn, range(20))]


@pytest.mark.parametrize("restrictions", CASES)
@pytest.mark.parametrize("stays", [(), (0,), (0, 7), (1, 2)])
def test_against_all_cuts(restrictions: list[Restriction], stays: tuple[int, ...]) -> None:
    cuts, draw = AllowedCuts(LAYERS, restrictions), random.Random(0)
    depths = []
    for n in range(1, LAYERS):
        there = _all_cuts(restrictions, n, stays)
        depths += [LAYERS - n] if there else []
        for gone in itertools.chain([()], itertools.combinations(range(LAYERS), 2)):
            reached = [cut for cut in there if set(gone) <= set(cut)]
            assert cuts.extends(gone, n, stays) == bool(reached)
            if len(gone) < n:
                assert cuts.removable(n, gone, stays) == sorted({*itertools.chain(*reached)} - {*gone})
        scores = [float(draw.randint(0, 5)) for _ in range(LAYERS)]
        best = min(there, key=lambda cut: (sum(scores[layer] for layer in cut), cut), default=None)
        assert cuts.least(scores, n, stays) == (None if best is None else list(best))
        spans = [start for start in range(LAYERS - n + 1) if tuple(range(start, start + n)) in there]
        assert cuts.spans(n, stays) == spans
    assert cuts.depths(stays) == sorted(depths)


@pytest.mark.parametrize("restrictions", CASES[:8])
def test_spans_of_which_one_layer_stays(restrictions: list[Restriction]) -> None:
    """As of a merge, or of a layer that is trained in the span's place."""
    cuts = AllowedCuts(LAYERS, restrictions)
    for n in range(2, LAYERS + 1):
        expected = [
            start
            for start in range(LAYERS - n + 1)
            if all(
                one.allows([layer for layer in range(LAYERS) if not start < layer < start + n]) for one in restrictions
            )
        ]
        assert cuts.spans(n, left=1) == expected


def test_what_is_not_a_number_goes_last() -> None:
    cuts = AllowedCuts(4, [_boundary("AABB")])
    assert cuts.least([math.nan, 9.0, math.inf, 8.0], 2) == [1, 3]
    assert cuts.least([math.nan, 9.0, math.inf, math.nan], 2) == [1, 2]


def test_reasons_of_what_a_cut_breaks() -> None:
    cuts = AllowedCuts(8, [_period("ABABABAB", 2), _boundary("AAABBBBB"), _period("ABABABAB", 2)])
    assert cuts.restricted
    assert cuts.reasons == ["every 2th", "A first"]
    assert cuts.broken(range(8)) == []
    assert cuts.broken(range(1, 8)) == ["every 2th"]


def test_many_layers_and_many_patterns_are_no_burden() -> None:
    """A boundary of 120 layers: 120 patterns a depth, each of which is tried."""
    cuts = AllowedCuts(120, [_boundary("A" * 40 + "B" * 80)])
    assert cuts.removable(30, gone=range(40, 60)) == [*range(40), *range(60, 120)]
    assert cuts.least([float(layer) for layer in range(120)], 30) == list(range(30))


def test_of_another_number_of_layers() -> None:
    with pytest.raises(ValueError, match="8 layers for a model of 7"):
        AllowedCuts(7, [_boundary("AAABBBBB")])
