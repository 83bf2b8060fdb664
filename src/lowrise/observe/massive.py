"""Massive activations: tokens whose residual norm dwarfs the others', and the layer that writes them (METHODS 5)."""

from __future__ import annotations

import torch
from torch import Tensor

# A norm is massive at this multiple of the median; its writer multiplies the largest norm at least threefold.
# On real decoders the jump is 10 to 1,000 fold within a layer or two, and nothing else comes near.
MASSIVE_RATIO = 20.0
WRITER_GROWTH = 3.0


class MassiveActivations:
    """Per h[l]: the largest token norm of all windows, and the median over windows of their median norm."""

    def __init__(self, layers: int) -> None:
        self._largest = torch.zeros(layers + 1, dtype=torch.float64)
        self._medians: list[list[float]] = [[] for _ in range(layers + 1)]

    def add_states(self, layer: int, h: Tensor) -> None:
        """h[layer] of a batch, (batch, tokens, hidden)."""
        self.add(layer, torch.linalg.vector_norm(h.float(), dim=-1))

    def add(self, layer: int, norm: Tensor) -> None:
        """norm: (batch, tokens) of h[layer]."""
        self._largest[layer] = max(float(self._largest[layer]), float(norm.max()))
        # as numbers: small tensors kept among large ones that come and go would pin the heap, 60 MB a batch
        self._medians[layer].extend(norm.median(dim=-1).values.tolist())

    def sums(self) -> dict[str, Tensor]:
        """All that it has gathered, for `resume`."""
        return {"largest": self._largest, "medians": torch.tensor(self._medians, dtype=torch.float64)}

    def resume(self, sums: dict[str, Tensor]) -> None:
        self._largest, self._medians = sums["largest"], sums["medians"].tolist()

    def largest(self) -> Tensor:
        """(L+1,) largest token norm of each h[l]."""
        return self._largest

    def median(self) -> Tensor:
        """(L+1,) typical token norm of each h[l]."""
        return torch.tensor(self._medians, dtype=torch.float64).median(dim=-1).values

    def data(self) -> dict[str, list[int] | list[float]]:
        """For the plan."""
        return {
            "writers": self.writers(),
            "largest_norm": self.largest().tolist(),
            "median_norm": self.median().tolist(),
        }

    def writers(self) -> list[int]:
        """Layers whose output's largest norm is massive and far above their input's."""
        largest, ratio = self._largest, self._largest / self.median()
        return [
            layer
            for layer in range(len(largest) - 1)
            if ratio[layer + 1] >= MASSIVE_RATIO and largest[layer + 1] >= WRITER_GROWTH * largest[layer]
        ]
