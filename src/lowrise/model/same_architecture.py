"""Whether layers do the same kind of computation, so that one may take on the others' weights."""

from __future__ import annotations

from typing import Any

from lowrise.model.decoder import Decoder
from lowrise.model.splice import layer_facts, per_layer_lists


def difference(decoder: Decoder, first: int, other: int) -> str | None:
    """What makes layer `other` another kind than layer `first`, in words; None if nothing does.

    Looked at: every entry of the config's per-layer lists, and of every submodule the class, the plain attributes
    (window, attention kind, scaling; not the layer's index) and the parameter shapes.
    """
    for name in per_layer_lists(decoder.config):
        values = getattr(decoder.config, name)
        if values[first] != values[other]:
            return f"{name} {values[first]} beside {values[other]}"
    mine, theirs = (layer_facts(decoder.layers[layer]) for layer in (first, other))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            return f"{key} {mine.get(key)} beside {theirs.get(key)}"
    return None


def same_neurons(decoder: Decoder, first: int, other: int) -> bool:
    """Whether neurons of one layer are at home in the other: all but attention, and what is said of the layer whole."""
    attention, _, _ = decoder.names(first).attention_output.partition(".")

    def facts(layer: int) -> dict[str, Any]:
        of_parts = {key: value for key, value in layer_facts(decoder.layers[layer]).items() if "." in key}
        return {key: value for key, value in of_parts.items() if not key.startswith(f"{attention}.")}

    return facts(first) == facts(other)


def kinds(decoder: Decoder) -> list[int]:
    """For every layer the first layer of the same architecture: equal numbers may be merged."""
    first: list[int] = []
    found: list[int] = []
    for layer in range(len(decoder)):
        match = next((kind for kind in first if difference(decoder, kind, layer) is None), layer)
        if match == layer:
            first.append(layer)
        found.append(match)
    return found
