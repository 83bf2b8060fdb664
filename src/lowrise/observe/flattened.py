"""How alike what enters and what leaves a layer are when a window's tokens are one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.exact import exact_sum


class FlattenedSimilarity:
    """Mean over windows of the cosine of h[l] and h[l+1], each flattened over tokens and features.

    The representation of LaCo (arXiv 2402.11187): tokens of a large norm decide. Memory: one state of one batch.
    """

    def __init__(self, layers: int) -> None:
        self._cosine = torch.zeros(layers, dtype=torch.float64)
        self._windows = 0
        self._before = torch.empty(0)

    def add(self, layer: int, h: Tensor) -> None:
        """h[layer] of a batch, (batch, tokens, hidden); layers come in order from 0."""
        flat = h.float().flatten(1)
        if layer == 0:
            self._windows += len(h)
        else:
            cosine = torch.cosine_similarity(self._before.to(flat.device), flat, dim=1)
            self._cosine[layer - 1] += exact_sum(cosine).cpu()
        self._before = flat

    def cosine(self) -> Tensor:
        """(L,), float64."""
        return self._cosine / self._windows
