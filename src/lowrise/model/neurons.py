"""An MLP as so many neurons: which rows of which parameters make one, seen alike in every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.matrices import Matrix, mlp_output, reads
from lowrise.model.splice import layer_facts


def parameters(decoder: Decoder, layer: int) -> dict[str, int]:
    """Paths in the layer, of all that leads into its neurons, and the axis along which one neuron follows the other."""
    found = {}
    for matrix in reads(decoder, layer)[1]:
        found[matrix.parameter] = 1 if matrix.inward else 0
        if getattr(matrix.module, "bias", None) is not None:
            found[_bias(matrix)] = 0
    return found


def turned(decoder: Decoder, layer: int, turn: Tensor) -> dict[str, Tensor]:
    """The layer's `parameters` by path, when (1 + `turn`) (d, d) stands before its MLP."""
    found = {}
    for matrix in reads(decoder, layer)[1]:
        module = decoder.layers[layer]
        own = matrix.matrix(module.get_parameter(matrix.parameter).detach()).float()
        weight, _ = matrix.moved(own, turn @ own.to(turn), decoder.dtype)
        found[matrix.parameter] = weight
        if getattr(matrix.module, "bias", None) is not None:
            found[_bias(matrix)] = module.get_parameter(_bias(matrix)).detach()
    return found


def chosen(own: Tensor, other: Tensor, axis: int, rows: Tensor, neurons: int) -> Tensor:
    """`rows` (neurons,) of both layers' neurons, those of `own` counted first, of a parameter with `axis`.

    A matrix for both gate and value holds every neuron twice, first all gates.
    """
    parts = [one.movedim(axis, 0).unflatten(0, (-1, neurons)) for one in (own, other)]
    both: Tensor = torch.cat(parts, 1)[:, rows.to(own.device)].flatten(0, 1).movedim(0, axis)
    return both.contiguous()


def same_kind(decoder: Decoder, first: int, other: int) -> bool:
    """Whether neurons of one layer are at home in the other: all but attention, and what is said of the layer whole."""
    attention, _, _ = decoder.names(first).attention_output.partition(".")

    def facts(layer: int) -> dict[str, Any]:
        of_parts = {key: value for key, value in layer_facts(decoder.layers[layer]).items() if "." in key}
        return {key: value for key, value in of_parts.items() if not key.startswith(f"{attention}.")}

    return facts(first) == facts(other)


@torch.no_grad()
def neurons_apart(decoder: Decoder) -> bool:
    """Whether the first layer's MLP is what `parameters` says: with its neurons in reverse it must do the same."""
    write = mlp_output(decoder, 0)
    weight = decoder.layers[0].get_parameter(write.parameter).detach()
    count = len(write.matrix(weight))
    back = torch.arange(count - 1, -1, -1, device=weight.device)
    reverse: dict[str, Tensor] = {write.parameter: write.weight(write.matrix(weight)[back])}
    for name, axis in parameters(decoder, 0).items():
        value = decoder.layers[0].get_parameter(name).detach()
        if value.shape[axis] % count:
            return False
        reverse[name] = chosen(value, value, axis, back, count)
    h, calls = decoder.enter(torch.zeros(1, 2, dtype=torch.long))

    def written(instead: Mapping[str, Tensor] | None = None) -> Tensor:
        return decoder.step(0, h, calls, instead).float()

    still = written()
    silent = written({write.parameter: torch.zeros_like(weight)})
    return float((written(reverse) - still).norm()) <= 0.02 * float((still - silent).norm())


def _bias(matrix: Matrix) -> str:
    return matrix.parameter.removesuffix("weight") + "bias"
