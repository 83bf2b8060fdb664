"""Ghosted layers: the linear map of the stream that comes nearest to the layers that are gone.

https://arxiv.org/abs/2605.15491: W* = 1 + (XᵀX + ε·1)⁻¹ XᵀΔ over all tokens, X = h[start] and Δ = h[stop] - h[start] of
the dense model, in float64, ε = 1e-6. One a span; where a cut has several gaps, one a layer that is gone. Those of
adjacent layers act one after the other, so one matrix, their product, stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from lowrise.edit.boundary import Boundary, boundaries, gaps_of
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.maps import repaired_by
from lowrise.exact import exact, exact_device

RIDGE = 1e-6  # ε: absolute, so that nothing but rounding is kept at bay


@torch.no_grad()
def repair(task: RepairTask) -> Repaired:
    """A map for every gap, from the fitted windows; the student's parameters stay as they are.

    Memory beyond a batch: three float64 matrices (d, d).
    """
    scattered = len(gaps_of(task.student)) > 1

    def solved() -> Iterator[tuple[Boundary, Tensor]]:
        for boundary in boundaries(task, every=scattered):
            gap, d = boundary.gap, task.student.decoder.hidden_size
            steps = [(gap.start, gap.stop)]
            if scattered:
                steps = [(layer, layer + 1) for layer in range(gap.start, gap.stop)]
            yield boundary, reduce(torch.matmul, (_operator(boundary, d, *step) for step in steps))

    return repaired_by(task, solved())


def _operator(boundary: Boundary, d: int, first: int, last: int) -> Tensor:
    """W* (d, d), float64, for h[first] → h[last]."""
    squares, cross = (torch.zeros(d, d, dtype=torch.float64, device=exact_device(boundary.device)) for _ in range(2))
    for before, after in boundary.pairs(False, first, last):
        x = exact(before)
        squares += x.T @ x
        cross += x.T @ (exact(after) - x)
    squares.diagonal().add_(RIDGE)
    change: Tensor = torch.linalg.solve(squares, cross)
    change.diagonal().add_(1)
    return change
