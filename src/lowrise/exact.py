"""float64 wherever a model lies: where its device has none (MPS), on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(value: Tensor) -> Tensor:
    """The same in float64, of any shape."""
    return (value.cpu() if value.device.type == "mps" else value).double()


def exact_sum(value: Tensor) -> Tensor:
    """The sum of all entries, 0-d and float64, added up without a float64 copy of them."""
    return (value.cpu() if value.device.type == "mps" else value).sum(dtype=torch.float64)
