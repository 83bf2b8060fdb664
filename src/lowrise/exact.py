"""float64 wherever a model lies: where its device has none (MPS), on the CPU. And float32 that is no less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def exact_device(device: torch.device) -> torch.device:
    """Where float64 of what lies on `device` is kept."""
    return torch.device("cpu") if device.type == "mps" else device


def exact(value: Tensor) -> Tensor:
    """The same in float64, of any shape."""
    return value.to(exact_device(value.device)).double()


def exact_sum(value: Tensor) -> Tensor:
    """The sum of all entries, 0-d and float64, added up without a float64 copy of them."""
    return value.to(exact_device(value.device)).sum(dtype=torch.float64)


@contextmanager
def full_products() -> Iterator[None]:
    """While it lasts, products of float32 are of float32, also where an accelerator may take TF32 for them."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
