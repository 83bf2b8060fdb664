"""An MLP as so many neurons: which rows of which parameters make one, seen alike in every family."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.exact import exact
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import input_of, mlp_output, reads, some_tokens
from lowrise.model.norms import mlp_norm


def parameters(decoder: Decoder, layer: int) -> dict[str, int]:
    """Paths in the layer, of all that leads into its neurons, and the axis along which one neuron follows the other."""
    found = {}
    for matrix in reads(decoder, layer)[1]:
        found[matrix.parameter] = 1 if matrix.input_first else 0
        if getattr(matrix.module, "bias", None) is not None:
            found[matrix.parameter.removesuffix("weight") + "bias"] = 0
    return found


def neuron_count(decoder: Decoder, layer: int) -> int:
    """k, of what the MLP's output matrix (k, d) is given."""
    write = mlp_output(decoder, layer)
    return len(write.matrix(decoder.layers[layer].get_parameter(write.parameter)))


def turned(decoder: Decoder, layer: int, turn: Tensor) -> dict[str, Tensor]:
    """The layer's `parameters` by path, when (1 + `turn`) (d, d) stands before its MLP."""
    found = {name: decoder.layers[layer].get_parameter(name).detach() for name in parameters(decoder, layer)}
    for matrix in reads(decoder, layer)[1]:
        own = matrix.matrix(found[matrix.parameter]).float()
        found[matrix.parameter], _ = matrix.moved(own, turn @ exact(own), decoder.dtype)
    return found


def chosen(own: Tensor, other: Tensor, axis: int, rows: Tensor, neurons: int) -> Tensor:
    """`rows` (neurons,) of both layers' neurons, those of `own` counted first, of a parameter with `axis`.

    A matrix for both gate and value holds every neuron twice, first all gates.
    """
    parts = [one.movedim(axis, 0).unflatten(0, (-1, neurons)) for one in (own, other)]
    both: Tensor = torch.cat(parts, 1)[:, rows.to(own.device)].flatten(0, 1).movedim(0, axis)
    return both.contiguous()


@torch.no_grad()
def neurons_apart(decoder: Decoder) -> bool:
    """Whether the first layer's MLP is what `parameters` says: tried with its neurons in reverse, half of them silent.

    The other half must then be what it was, each in its new place. Where a norm stands behind the MLP it is not.
    """
    if mlp_norm(decoder, 0) is not None:
        return False
    write = mlp_output(decoder, 0)
    count = neuron_count(decoder, 0)
    back = torch.arange(count - 1, -1, -1)
    changed: dict[str, Tensor] = {}
    for name, axis in parameters(decoder, 0).items():
        value = decoder.layers[0].get_parameter(name).detach()
        if value.shape[axis] % count:
            return False
        changed[name] = chosen(
            value, torch.zeros_like(value), axis, torch.where(back < count // 2, back, back + count), count
        )
    h, calls = decoder.embed(some_tokens(decoder))

    def made(instead: dict[str, Tensor] | None) -> Tensor:
        return input_of(write.module, lambda: decoder.step(0, h, calls, instead)).flatten(0, -2).float()

    were, are = made(None), made(changed)
    stay = slice(count - count // 2, None)
    expected = were.flip(-1)[:, stay]
    return float((are[:, stay] - expected).norm()) < 0.02 * float(expected.norm())
