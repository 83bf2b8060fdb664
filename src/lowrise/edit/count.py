"""Sizes that a plan leads to, known before it is applied."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lowrise.edit.replace import network_shape
from lowrise.model.decoder import Decoder
from lowrise.plan import Drop, Merge, Replace


def parameters_after(decoder: Decoder, edits: Sequence[Drop | Replace | Merge]) -> int:
    """Parameters of the model after `edits`, shared ones counted once, put-back networks included."""
    count = decoder.parameters()
    for edit in edits:
        first = edit.start
        in_place = isinstance(edit, Replace) and (edit.network == "layer" or edit.form == "portable")
        if isinstance(edit, Merge) or in_place:
            first += 1
        elif isinstance(edit, Replace):
            intermediate, _ = network_shape(decoder, edit)
            d = decoder.hidden_size
            count += 2 * d * intermediate + intermediate + d if edit.network == "ffn" else 3 * d * intermediate
        count -= sum(_size(layer) for layer in decoder.layers[first : edit.stop])
    return count


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
