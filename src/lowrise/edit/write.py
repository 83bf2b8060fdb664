"""How a layer's attention and its MLP write the stream, seen alike with a norm behind them and without.

Plainly the stream is given A·W. Through a norm (Gemma-2 and 3, OLMo-2, GLM-4) it is given v·y/rms(y), y = A·W, which is
A/rms(y) times W·v and linear in W but for rms(y). So these two stand for A and W there. What is solved for them is of
rms(y) as it was, a Gauss-Newton step that leaves the norm's own derivative out; v grows as rms(y) grows on average.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowrise.edit.gram import Gram
from lowrise.exact import exact
from lowrise.model.layer import Layer
from lowrise.model.matrices import Matrix
from lowrise.model.norms import Norm

# Of the median of what a norm scales by: what is scaled by much less would have to be so large in y that nothing else
# were left of its length, so a change is divided by v there as by one that is not so small.
DAMPING = 0.3


class Write:
    """A way of a layer to the stream. parameter: the layer's, by path, as they are now.

    own: W (k, d), float32, times what the norm scales by.
    """

    def __init__(self, matrix: Matrix, norm: Norm | None, parameter: Callable[[str], Tensor]) -> None:
        self.matrix, self.norm = matrix, norm
        self._plain = matrix.matrix(parameter(matrix.parameter)).float()
        self._normed = None if norm is None else Normed(norm, parameter(norm.parameter))
        self.own = self._plain if self._normed is None else self._plain * self._normed.scale

    @property
    def paths(self) -> list[str]:
        """In the layer, of the parameters that it is made of."""
        return [self.matrix.parameter, *([] if self.norm is None else [self.norm.parameter])]

    def given(self, a: Tensor) -> Tensor:
        """(tokens, k) that `own` makes into what is written, where the matrix is given `a` (tokens, k)."""
        return a if self._normed is None else a.float() * self._normed.shortening(a.float() @ self._plain)

    def moved(self, change: Tensor, fit: Gram, dtype: torch.dtype) -> dict[str, Tensor]:
        """Parameters by path when `own`, behind a norm, is changed by `change` (k, d). fit: of what it is given now."""
        normed = self._normed
        assert normed is not None
        plain = self._plain + normed.before(change.float().to(self._plain.device))
        return {
            self.matrix.parameter: self.matrix.weight(plain).to(dtype),
            normed.norm.parameter: normed.grown(fit.inputs, exact(self._plain), exact(plain), dtype),
        }


class Normed:
    """A norm with its weight. scale: v (d,), float32."""

    def __init__(self, norm: Norm, weight: Tensor) -> None:
        self.norm, self._weight, self.scale = norm, weight, norm.scale(weight)

    def shortening(self, y: Tensor) -> Tensor:
        """(tokens, 1): 1/rms of y (tokens, d), as the norm takes it."""
        made, scaled = self.norm.of(y, self._weight), y * self.scale
        long, was = (torch.linalg.vector_norm(one, dim=-1, keepdim=True) for one in (made, scaled))
        shortening: Tensor = long / was.clamp_min(torch.finfo(torch.float32).tiny)
        return shortening

    def before(self, change: Tensor) -> Tensor:
        """What of y makes `change` (·, d) behind the norm; less where its scale is small beside the others."""
        least = (DAMPING * self.scale.abs().median()).clamp_min(torch.finfo(torch.float32).tiny ** 0.5)
        return change * (self.scale / (self.scale.square() + least.square()))

    def grown(self, inputs: Tensor, was: Tensor, is_now: Tensor, dtype: torch.dtype) -> Tensor:
        """The norm's weight when y is made by other matrices, so that y/rms(y) grows on average as y does.

        inputs: AᵀA, of these and maybe more inputs; was, is_now: the matrices (k, d), float64.
        """
        inputs = inputs[: len(was), : len(was)]
        before, behind = (float(((inputs @ one) * one).sum()) for one in (was, is_now))
        return self.norm.weight(self.scale * (behind / before) ** 0.5).to(dtype)


def attention_of(layer: Layer, parameter: Callable[[str], Tensor]) -> Write:
    return Write(layer.attention_output, layer.attention_norm, parameter)


def mlp_of(layer: Layer, parameter: Callable[[str], Tensor]) -> Write:
    return Write(layer.mlp_output, layer.mlp_norm, parameter)
