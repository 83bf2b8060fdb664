"""Whether layers do the same kind of computation, so that one may take on the others' weights."""

from __future__ import annotations

from typing import Any

from lowrise.model.decoder import Decoder
from lowrise.model.layer import Layer


def difference(first: Layer, other: Layer) -> str | None:
    """What makes layer `other` another kind than layer `first`, in words; None if nothing does.

    Looked at: every entry of the config's per-layer lists, and of every submodule the class, the plain attributes
    (window, attention kind, scaling; not the layer's index) and the parameter shapes.
    """
    for name, value in first.settings.items():
        if value != other.settings[name]:
            return f"{name} {value} beside {other.settings[name]}"
    for key in sorted(first.facts.keys() | other.facts.keys()):
        if first.facts.get(key) != other.facts.get(key):
            return f"{key} {first.facts.get(key)} beside {other.facts.get(key)}"
    return None


def same_neurons(first: Layer, other: Layer) -> bool:
    """Whether neurons of one layer are at home in the other: all but attention, and what is said of the layer whole."""
    attention, _, _ = first.names.attention_output.partition(".")

    def facts(layer: Layer) -> dict[str, Any]:
        of_parts = {key: value for key, value in layer.facts.items() if "." in key}
        return {key: value for key, value in of_parts.items() if not key.startswith(f"{attention}.")}

    return facts(first) == facts(other)


def layer_groups(decoder: Decoder) -> list[int]:
    """For every layer the first layer of the same architecture: equal numbers may be merged."""
    first: list[Layer] = []
    found: list[int] = []
    for layer in map(decoder.layer, range(len(decoder))):
        match = next((kind for kind in first if difference(kind, layer) is None), layer)
        if match is layer:
            first.append(layer)
        found.append(match.index)
    return found
