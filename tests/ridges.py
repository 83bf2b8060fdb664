"""Ridge regression written plainly: what tests hold closed-form repairs against."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.edit.gram import RIDGES

HELD_OUT = 4  # windows, the last ones, that choose λ


def best_ridge(a: Tensor, e: Tensor, weight: Tensor | None = None, ridges: tuple[float, ...] = RIDGES) -> Tensor:
    """The change that the last HELD_OUT windows like best. a, e (windows, tokens, ·); weight (windows, tokens)."""
    root = 1.0 if weight is None else weight.double().sqrt().unsqueeze(-1)
    a, e = a.double() * root, e.double() * root
    fitted, rest = ([part[cut].flatten(0, 1) for part in (a, e)] for cut in (slice(-HELD_OUT), slice(-HELD_OUT, None)))
    tried = [torch.zeros(a.shape[-1], e.shape[-1], dtype=a.dtype), *(ridge(*fitted, one) for one in ridges)]
    return min(tried, key=lambda x: float((rest[0] @ x - rest[1]).square().sum()))


def ridge(a: Tensor, e: Tensor, strength: float) -> Tensor:
    """argmin ‖A·X - E‖² + λ·m·‖X‖² by stacking √(λm)·1 below A."""
    scale = a.square().sum() / a.shape[1]
    below = (strength * scale).sqrt() * torch.eye(a.shape[1], dtype=a.dtype)
    stacked = torch.cat([a, below]), torch.cat([e, torch.zeros(a.shape[1], e.shape[1], dtype=e.dtype)])
    return torch.linalg.lstsq(*stacked).solution
