"""Norms between what attention and an MLP make, y, and the stream: v·y/rms(y) is what is then added to it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowrise.model.decoder import Decoder
from lowrise.model.matrices import TIMES, Matrix, attention_write, captured, mlp_output, some_tokens


@dataclass(frozen=True)
class Norm:
    """module: the norm; parameter: the path of its weight in the layer."""

    module: nn.Module
    parameter: str

    def of(self, y: Tensor, weight: Tensor) -> Tensor:
        """What becomes of y (..., d), in float32."""
        made: Tensor = functional_call(self.module, {"weight": weight.float()}, (y.float(),))
        return made

    def scale(self, weight: Tensor) -> Tensor:
        """v (d,), float32. It is tried: some norms add 1 to their weight."""
        return self.of(torch.ones(1, len(weight), device=weight.device), weight).flatten()

    def weight(self, scale: Tensor) -> Tensor:
        """v (d,) → the weight that makes it."""
        least, more = self.scale(torch.zeros_like(scale)), self.scale(torch.ones_like(scale))
        return (scale - least) / (more - least)


def mlp_norm(decoder: Decoder, layer: int) -> Norm | None:
    """Behind its MLP; None where the stream is given what the MLP makes as it is."""
    return _norm(decoder, layer, decoder.names(layer).mlp_norm)


def attention_norm(decoder: Decoder, layer: int) -> Norm | None:
    """Behind its attention."""
    return _norm(decoder, layer, decoder.names(layer).attention_norm)


def _norm(decoder: Decoder, layer: int, name: str | None) -> Norm | None:
    return None if name is None else Norm(decoder.layers[layer].get_submodule(name), f"{name}.weight")


def scales(decoder: Decoder, layer: int) -> list[str]:
    """Paths in the layer, of what all its norms scale by, where one stands behind what is written; none elsewhere."""
    if mlp_norm(decoder, layer) is None:
        return []
    own = decoder.layers[layer].named_parameters()
    return [name for name, value in own if value.dim() == 1 and not name.endswith("bias")]


@torch.no_grad()
def norms_as_known(decoder: Decoder) -> bool:
    """Whether the first layer's norms are as this module says, each behind its matrix, and the stream takes what the
    MLP's makes as it is. Tried: with v so many times as large that rounding of the stream is nothing beside it, so much
    more must be added.
    """
    mlp, attention = mlp_norm(decoder, 0), attention_norm(decoder, 0)
    if mlp is None or attention is None:
        return False
    pairs: list[tuple[Matrix, Norm]] = [(attention_write(decoder, 0), attention), (mlp_output(decoder, 0), mlp)]
    for matrix, norm in pairs:
        weights = [name for name, _ in norm.module.named_parameters()]
        if weights != ["weight"] or getattr(matrix.module, "bias", None) is not None:
            return False
    parameter = decoder.layers[0].get_parameter
    h, calls = decoder.embed(some_tokens(decoder))
    weight = parameter(mlp.parameter)
    larger = mlp.weight(TIMES * mlp.scale(weight)).to(weight.dtype)
    with ExitStack() as stack:
        caught = [[stack.enter_context(captured(one.module)) for one in pair] for pair in pairs]
        out = decoder.step(0, h, calls)
    seen = []
    for (matrix, norm), (inputs, given) in zip(pairs, caught, strict=True):
        y = inputs[0].float() @ matrix.matrix(parameter(matrix.parameter)).float()
        made = norm.of(y, parameter(norm.parameter))
        scaled = y * norm.scale(parameter(norm.parameter))
        seen += [(given[0].float(), y), (made, scaled * (made.norm(dim=-1) / scaled.norm(dim=-1)).unsqueeze(-1))]
    more = decoder.step(0, h, calls, {mlp.parameter: larger}).float() - out.float()
    seen.append((more, (TIMES - 1) * made))
    return all(float((one.view_as(other) - other).norm()) < 0.05 * float(other.norm()) for one, other in seen)
