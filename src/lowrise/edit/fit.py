"""What a repair did at one layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fit:
    """What was solved at `layer` to meet h[stop]. ridge: λ taken, of the MLP's output matrix.

    neurons: how many of its MLP's were transplanted from removed layers. descended: whether it then followed a
    gradient (`edit/block_reconstruction.py`). written: whether what it writes was solved in closed form, or only what
    it reads.
    experts: how many matrices of experts were solved; few: to how many of them fewer fitted tokens came than the matrix
    has inputs, so that it is held to what it was.
    before, after: mean error of a held-out token: ‖E‖²/‖h‖ of `refit`, where only its writes toward h[stop] are
    counted, ‖E‖² of `fold` and of a trained network, 1 - cos of `fold-cosine`. None where nothing but reads changed,
    which are not measured by h[stop].
    """

    layer: int
    stop: int
    ridge: float | None
    before: float | None
    after: float | None
    neurons: int = 0
    descended: bool = False
    written: bool = True
    experts: int = 0
    few: int = 0
