"""Norms between what attention and an MLP make, y, and the stream: v·y/rms(y) is what is then added to it.

Where the layer multiplies by a factor behind a norm, v is times that factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Norm:
    """module: the norm; parameter: the path of its weight in the layer. factor: what the layer then multiplies by."""

    module: nn.Module
    parameter: str
    factor: float = 1.0

    def of(self, y: Tensor, weight: Tensor) -> Tensor:
        """What becomes of y (..., d), in float32."""
        made: Tensor = functional_call(self.module, {"weight": weight.float()}, (y.float(),))
        return made if self.factor == 1 else self.factor * made

    def scale(self, weight: Tensor) -> Tensor:
        """v (d,), float32. It is tried: some norms add 1 to their weight."""
        return self.of(torch.ones(1, len(weight), device=weight.device), weight).flatten()

    def weight(self, scale: Tensor) -> Tensor:
        """v (d,) → the weight that makes it."""
        least, more = self.scale(torch.zeros_like(scale)), self.scale(torch.ones_like(scale))
        return (scale - least) / (more - least)
