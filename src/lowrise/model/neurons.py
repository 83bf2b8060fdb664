"""An MLP as so many neurons, seen alike in every family: they can be taken out, put in and reordered."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.matrices import input_of
from lowrise.model.structure import known_by_name


def chosen(own: Tensor, other: Tensor, axis: int, rows: Tensor, neurons: int) -> Tensor:
    """`rows` (neurons,) of both layers' neurons, those of `own` counted first, of a parameter with `axis`.

    A matrix for both gate and value holds every neuron twice, first all gates.
    """
    parts = [one.movedim(axis, 0).unflatten(0, (-1, neurons)) for one in (own, other)]
    both: Tensor = torch.cat(parts, 1)[:, rows.to(own.device)].flatten(0, 1).movedim(0, axis)
    return both.contiguous()


@torch.no_grad()
def neurons_apart(decoder: Decoder) -> bool:
    """Whether the first layer's MLP is what `Layer.neuron_parameters` says: tried with its neurons in reverse, half of
    them silent.

    The other half must then be what it was, each in its new place. Where a norm stands behind the MLP it is not, nor
    where not all layers are known by name.
    """
    first = decoder.layer(0)
    if not known_by_name(decoder) or first.mlp_norm is not None:
        return False
    write, count = first.mlp_output, first.neuron_count
    back = torch.arange(count - 1, -1, -1)
    changed: dict[str, Tensor] = {}
    for name, axis in first.neuron_parameters.items():
        value = first.parameter(name)
        if value.shape[axis] % count:
            return False
        changed[name] = chosen(
            value, torch.zeros_like(value), axis, torch.where(back < count // 2, back, back + count), count
        )
    h, calls = decoder.embed(decoder.probe_ids)

    def made(instead: dict[str, Tensor] | None) -> Tensor:
        return input_of(write.module, lambda: first.call(h, calls[0], instead)).flatten(0, -2).float()

    were, are = made(None), made(changed)
    stay = slice(count - count // 2, None)
    expected = were.flip(-1)[:, stay]
    return float((are[:, stay] - expected).norm()) < 0.02 * float(expected.norm())
