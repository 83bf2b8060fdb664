"""Per-layer settings and indices after some layers are gone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lowrise.errors import ProofError

_INDEX_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
# Integers that mark a boundary between layers: how many of the first layers are of one kind.
_BOUNDARIES = ("max_window_layers",)


def per_layer_lists(config: Any) -> list[str]:
    """Names of the settings that hold one entry a layer: lists as long as the stack whose name speaks of layers."""
    count = config.num_hidden_layers
    return [
        name
        for name, value in vars(config).items()
        if isinstance(value, list | tuple)
        and len(value) == count
        and any(word in name for word in ("layer", "pattern", "types"))
    ]


def splice_config(config: Any, kept: list[int]) -> None:
    """Keep only the entries of layers `kept` in every per-layer list, and move boundaries; in place."""
    for name in per_layer_lists(config):
        value = getattr(config, name)
        setattr(config, name, type(value)(value[index] for index in kept))
    for name in _BOUNDARIES:
        boundary = getattr(config, name, None)
        if isinstance(boundary, int):
            setattr(config, name, sum(index < boundary for index in kept))
    config.num_hidden_layers = len(kept)


def renumber(layers: nn.ModuleList) -> None:
    """Give every submodule that knows its layer's index the index where the layer now stands."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in _INDEX_NAMES:
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def check_against_stock(model: Any, layers: nn.ModuleList, path: str) -> None:
    """The spliced layers are what the stock class builds from the spliced config, or a fresh load would differ.

    Compares every layer submodule's plain attributes (index, window, attention type, scaling) and parameter shapes.
    Raises ProofError naming the first difference.
    """
    with torch.device("meta"):
        stock = type(model)(model.config)
    fresh_layers = stock.get_submodule(path)
    theirs = dict(fresh_layers.named_modules())
    for name, ours in layers.named_modules():
        mine, fresh = _facts(ours), _facts(theirs[name]) if name in theirs else {}
        for key in mine.keys() | fresh.keys():
            if mine.get(key) != fresh.get(key):
                raise ProofError(
                    f"layers.{name}.{key} is {mine.get(key)!r}, but a fresh load of the new config gives "
                    f"{fresh.get(key)!r}: this family ties its layers to their position in a way lowrise does not know"
                )


def layer_facts(layer: nn.Module) -> dict[str, Any]:
    """Class, plain attributes and parameter shapes of every submodule by path, the layer's own index left out."""
    facts: dict[str, Any] = {}
    for name, module in layer.named_modules():
        facts[f"{name}.class"] = type(module).__name__
        own = _facts(module)
        facts |= {f"{name}.{key}".lstrip("."): value for key, value in own.items() if key not in _INDEX_NAMES}
    return facts


def _facts(module: nn.Module) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not name.startswith("_") and name != "training"
    }
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters(recurse=False)}
    return plain | shapes
