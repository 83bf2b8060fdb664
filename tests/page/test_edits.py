"""What was done, in a line each: only layers that are left, and only what was solved."""

from __future__ import annotations

from typing import Any

import pytest

from lowrise.plan import Drop, Merge, Replace
from lowrise.report.edits import describe, describe_repair, reconstructed, transplanted_neurons
from lowrise.results import RepairFit

DROP = Drop(start=2, stop=4)
FOLDED = [Drop(start=2, stop=4, kind="fold"), Drop(start=4, stop=6, kind="fold")]
REFIT = [Drop(start=0, stop=2, kind="refit"), Merge(start=4, stop=6, repair="refit")]


def fit(layer: int, **more: Any) -> RepairFit:
    return RepairFit(layer=layer, stop=layer + 1, **more)


@pytest.mark.parametrize(
    ("edits", "fits", "says"),
    [
        ([DROP], [], None),
        ([], [], None),
        (FOLDED, [fit(1)], "a linear map folded into the MLP output matrix of layer 1"),
        (FOLDED, [fit(1), fit(7)], "MLP output matrices of layers 1, 7"),
        ([Drop(start=0, stop=2, kind="fold")], [], None),
        (
            REFIT,
            [fit(2), fit(3)],
            "refit the matrices of the layers that are left from 2 on",
        ),
        (
            REFIT,
            [fit(2, written=False)],
            "refit the matrices that read the stream, in the layers that are left from 2 on",
        ),
    ],
    ids=["none", "nothing", "one gap of two edits", "two gaps", "no layer before", "refit", "reads alone"],
)
def test_a_repair_is_said_once_and_of_layers_that_are_left(edits: Any, fits: Any, says: str | None) -> None:
    said = describe_repair(edits, fits)
    assert said is None if says is None else says in str(said)


def test_neurons_are_counted_by_the_layer_that_they_are_in() -> None:
    fits = [fit(3, neurons=1200), fit(5), fit(8, neurons=7)]
    assert (
        transplanted_neurons(fits) == "MLP neurons transplanted from removed layers: 1,200 into layer 3, 7 into layer 8"
    )
    assert transplanted_neurons(fits[1:2]) is None


def test_reconstructed_layers_are_named() -> None:
    fits = [fit(3, descended=True), fit(5), fit(8, descended=True)]
    assert "block reconstruction (Adam, one layer at a time) then trained layers 3, 8, each toward" in str(
        reconstructed(fits)
    )
    assert "then trained layer 3 toward" in str(reconstructed(fits[:1]))
    assert reconstructed(fits[1:2]) is None


def test_a_network_is_repaired_in_its_own_last_matrix() -> None:
    edits = [Replace(start=3, stop=5, network="ffn", repair=how) for how in ("none", "fold", "refit")]
    plain, folded, refit = map(describe, edits)
    assert plain == "layers [3, 5) replaced by one trained `ffn` network in its paper form"
    assert folded == f"{plain}; a linear map folded into its last matrix"
    assert refit == f"{plain}; a ridge regression refit its last matrix"
    assert describe_repair(edits[1:2], [fit(3)]) is None
