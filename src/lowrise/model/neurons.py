"""An MLP as so many neurons: which rows of which parameters make one, seen alike in every family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.matrices import Matrix, input_of, mlp_output, reads, some_tokens
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
    """Whether the first layer's MLP is what `parameters` says: tried with its neurons in reverse, half of them silent.

    The other half must then be what it was, each in its new place.
    """
    write = mlp_output(decoder, 0)
    count = len(write.matrix(decoder.layers[0].get_parameter(write.parameter)))
    back = torch.arange(count - 1, -1, -1)
    changed: dict[str, Tensor] = {}
    for name, axis in parameters(decoder, 0).items():
        value = decoder.layers[0].get_parameter(name).detach()
        if value.shape[axis] % count:
            return False
        changed[name] = chosen(
            value, torch.zeros_like(value), axis, torch.where(back < count // 2, back, back + count), count
        )
    h, calls = decoder.enter(some_tokens(decoder))

    def made(instead: dict[str, Tensor] | None) -> Tensor:
        return input_of(write.module, lambda: decoder.step(0, h, calls, instead)).flatten(0, -2).float()

    were, are = made(None), made(changed)
    stay = slice(count - count // 2, None)
    expected = were.flip(-1)[:, stay]
    return float((are[:, stay] - expected).norm()) < 0.02 * float(expected.norm())


def _bias(matrix: Matrix) -> str:
    return matrix.parameter.removesuffix("weight") + "bias"
