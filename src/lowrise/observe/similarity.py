"""How alike the residual stream is between any two places."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.exact import exact

_BLOCK = 128  # tokens whose states are compared at once, few enough to stay in a processor's cache


class SpanSimilarity:
    """Means over tokens of cos(h[l], h[l+n]) and ‖h[l+n] - h[l]‖ / ‖h[l+n]‖, of every span at once.

    LLM-Streamline (arXiv 2403.19135, equation 1): cosine a token, averaged over tokens. All inner products of one
    token's L + 1 states are one small float64 product, from which cosines and distances follow; sums are float64.
    Memory: the states of one batch.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._cosine = torch.zeros(layers + 1, layers + 1, dtype=torch.float64)
        self._error = torch.zeros_like(self._cosine)
        self._tokens = 0
        self._states = torch.empty(0)

    def add(self, layer: int, h: Tensor) -> None:
        """h[layer] of a batch, (batch, tokens, hidden); layers come in order from 0 to L."""
        rows = h.flatten(0, -2)
        if self._states.shape[1:] != (layers := self._layers + 1, rows.shape[-1]) or len(self._states) < len(rows):
            # one buffer for all batches: freed and made anew for each, its pages would scatter and add up
            self._states = rows.new_empty(len(rows), layers, rows.shape[-1])
        self._states[: len(rows), layer] = rows
        if layer == self._layers:
            for block in self._states[: len(rows)].split(_BLOCK):
                self._compare(exact(block))

    def _compare(self, states: Tensor) -> None:
        """states: (tokens, L+1, hidden), float64."""
        products = states @ states.mT
        squares = products.diagonal(dim1=-2, dim2=-1)
        before, after = squares.unsqueeze(-1), squares.unsqueeze(-2)
        self._cosine += (products / (before * after).sqrt()).sum(0).cpu()
        self._error += ((before + after - 2 * products).clamp(min=0) / after).sqrt().sum(0).cpu()
        self._tokens += len(states)

    def sums(self) -> dict[str, Tensor]:
        """All that it has added up, for `resume`."""
        return {"cosine": self._cosine, "error": self._error, "tokens": torch.tensor(self._tokens)}

    def resume(self, sums: dict[str, Tensor]) -> None:
        self._cosine, self._error, self._tokens = sums["cosine"], sums["error"], int(sums["tokens"])

    def pairs(self) -> Tensor:
        """Mean cosine of h[i] and h[j]: (L+1, L+1), float64."""
        return self._cosine / self._tokens

    def cosine(self, n: int) -> Tensor:
        """Mean cosine of [l, l+n) for l = 0..L-n: (L-n+1,), float64."""
        return self.pairs().diagonal(n)

    def relative_error(self, n: int) -> Tensor:
        """Mean relative error of [l, l+n) for l = 0..L-n: (L-n+1,), float64."""
        return self._error.diagonal(n) / self._tokens
