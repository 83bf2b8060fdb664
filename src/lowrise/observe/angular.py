"""How far apart, as an angle, the last token's states are between any two places."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowrise.exact import exact, exact_device


class AngularDistance:
    """Mean over windows of arccos(cos(h[l], h[l+n])) / π at each window's LAST token, of every span at once.

    UIDL (arXiv 2403.17887): 0 where two states point the same way, 1 where they are opposed. One token a
    window, so it is taken in every pass at next to no cost. Sums are float64. Memory: one state a layer and window of
    one batch.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._sum = torch.zeros(layers + 1, layers + 1, dtype=torch.float64)
        self._windows = 0
        self._states = torch.empty(0)

    def add(self, layer: int, h: Tensor) -> None:
        """h[layer] of a batch, (batch, tokens, hidden); layers come in order from 0 to L."""
        last = h[:, -1]
        if self._states.shape != (shape := (len(last), self._layers + 1, last.shape[-1])):
            # one buffer for all batches: small tensors that are kept among large ones pin the heap
            self._states = torch.empty(shape, dtype=torch.float64, device=exact_device(h.device))
        self._states[:, layer] = exact(last)
        if layer == self._layers:
            unit = torch.nn.functional.normalize(self._states, dim=-1, eps=0.0)
            cosine = (unit @ unit.mT).clamp(-1, 1)  # rounding may bring it past 1
            self._sum += (cosine.arccos() / math.pi).sum(0).cpu()
            self._windows += len(last)

    def sums(self) -> dict[str, Tensor]:
        """All that it has added up, for `resume`."""
        return {"sum": self._sum, "windows": torch.tensor(self._windows)}

    def resume(self, sums: dict[str, Tensor]) -> None:
        self._sum, self._windows = sums["sum"], int(sums["windows"])

    def distance(self, n: int) -> Tensor:
        """Mean distance of [l, l+n) for l = 0..L-n: (L-n+1,), float64, between 0 and 1."""
        return self._sum.diagonal(n) / self._windows
