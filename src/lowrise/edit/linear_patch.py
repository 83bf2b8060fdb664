"""LinearPatch: the stream's channels brought to the magnitude that the next layer expects, where layers are gone.

https://arxiv.org/abs/2505.24680: x ← x·H·D·Hᵀ. H, a Hadamard matrix, spreads massive activations over all channels; D
is diagonal, for every channel the ratio of its mean magnitudes in the dense model's h[stop]·H and h[start]·H.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.edit.boundary import Boundary, boundaries
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.hadamard import rotation
from lowrise.edit.maps import repaired_by
from lowrise.exact import exact


@torch.no_grad()
def repair(task: RepairTask) -> Repaired:
    """The published patch, one a gap. Where no Hadamard matrix of the hidden size is known, H is a random rotation."""
    d = task.student.decoder.hidden_size
    turned, found = rotation(d)
    if not found:
        task.progress.say(f"no Hadamard matrix of order {d} is known here: a random orthogonal one stands for it")
    return _patched(task, turned)


@torch.no_grad()
def repair_diagonal(task: RepairTask) -> Repaired:
    """The variant without a rotation: H = 1."""
    return _patched(task, torch.eye(task.student.decoder.hidden_size, dtype=torch.float64))


def _patched(task: RepairTask, rotation: Tensor) -> Repaired:
    def solved() -> Iterator[tuple[Boundary, Tensor]]:
        for boundary in boundaries(task):
            h = exact(rotation.to(task.student.decoder.device))
            yield boundary, (h * _ratios(boundary, h)) @ h.T

    return repaired_by(task, solved())


def _ratios(boundary: Boundary, rotation: Tensor) -> Tensor:
    """(d,): by what channels grow from h[start]·H to h[stop]·H on average; 1 where nothing is that could."""
    before, after = torch.zeros_like(rotation[0]), torch.zeros_like(rotation[0])
    for x, target in boundary.pairs(False):
        before += (exact(x) @ rotation).abs().sum(0)
        after += (exact(target) @ rotation).abs().sum(0)
    return torch.where(before > 0, after / before, 1)
