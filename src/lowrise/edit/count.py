"""Sizes that a plan leads to, known before it is applied."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lowrise.edit.replace import network_parameters
from lowrise.methods import load, method
from lowrise.model.decoder import Decoder
from lowrise.plan import Drop, Merge, Replace


def parameters_after(decoder: Decoder, edits: Sequence[Drop | Replace | Merge]) -> int:
    """Parameters of the model after `edits`, shared ones counted once, with networks and what repairs add."""
    count = decoder.parameters()
    for edit in edits:
        first = edit.start
        if isinstance(edit, Merge) or (isinstance(edit, Replace) and edit.in_a_layer):
            first += 1
        elif isinstance(edit, Replace):
            count += network_parameters(decoder, edit)
        count -= sum(size_of(layer) for layer in decoder.layers[first : edit.stop])
    repaired = [edit for edit in edits if isinstance(edit, Drop | Merge) and edit.repair != "none"]
    if repaired:
        added = method("repair", repaired[0].repair).parameters
        count += 0 if added is None else int(load(added)(decoder, repaired))
    return count


def size_of(module: nn.Module) -> int:
    """Parameters of a layer."""
    return sum(parameter.numel() for parameter in module.parameters())
