"""Per-layer settings and indices after some layers are gone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lowrise.errors import ProofError
from lowrise.model.extras import forget_predicting
from lowrise.model.periods import PERIODS, Marks, fitting, marks, misleading, refusal

_INDEX_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
# Integers that mark a boundary between layers: how many of the first layers are of one kind.
_BOUNDARIES = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
# Settings that a layer divides by the square root of the stack's depth.
_BY_ROOT_OF_DEPTH = ("scale_depth",)
# Attributes in which layers repeat settings that follow a cut.
_REPEATED = (*_BY_ROOT_OF_DEPTH, "num_hidden_layers", *PERIODS)


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
    for name in _BY_ROOT_OF_DEPTH:
        scale = getattr(config, name, None)
        if scale is not None:
            setattr(config, name, scale * math.sqrt(len(kept) / config.num_hidden_layers))
    config.num_hidden_layers = len(kept)
    forget_predicting(config)


def renumber(layers: nn.ModuleList) -> None:
    """Give every submodule that knows its layer's index the index where the layer now stands."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in _INDEX_NAMES:
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def settle_periods(model: Any, layers: nn.ModuleList, path: str, before: Marks, where: str) -> None:
    """Take out of the config what misdescribes its lists of layers by a period, or correct what is read beside them.

    before: of the stack before the cut. Raises ModelError where no value of such a setting is right.
    """
    config = model.config.get_text_config(decoder=True)
    for name in misleading(config, before):
        value = getattr(config, name)
        delattr(config, name)
        if _difference(model, layers, path) is None:
            continue
        fit = fitting(name, value, marks(config), before)
        if fit is None:
            raise refusal(where, name, value)
        setattr(config, name, fit)


def check_against_stock(model: Any, layers: nn.ModuleList, path: str) -> None:
    """The spliced layers are what the stock class builds from the spliced config, or a fresh load would differ.

    Compares every layer submodule's plain attributes (index, window, attention type, scaling) and parameter shapes;
    those that only repeat a setting which followed the cut are brought up to date.
    Raises ProofError naming the first difference.
    """
    difference = _difference(model, layers, path)
    if difference is not None:
        raise ProofError(f"{difference}: this family ties its layers to their position in a way lowrise does not know")


def _difference(model: Any, layers: nn.ModuleList, path: str) -> str | None:
    """The first one between `layers` and those of a fresh load of the model's config, as it would be written."""
    config = type(model.config).from_dict(model.config.to_dict())
    with torch.device("meta"):
        stock = type(model)(config)
    theirs = dict(stock.get_submodule(path).named_modules())
    for name, ours in layers.named_modules():
        fresh = _facts(theirs[name]) if name in theirs else {}
        _follow(ours, fresh)
        mine = _facts(ours)
        for key in mine.keys() | fresh.keys():
            if mine.get(key) != fresh.get(key):
                found, expected = mine.get(key), fresh.get(key)
                return f"layers.{name}.{key} is {found!r}, but a fresh load of the new config gives {expected!r}"
    return None


def _follow(module: nn.Module, fresh: dict[str, Any]) -> None:
    """Repeat the settings as they are now; a quotient of two that moved alike may differ in its last digit."""
    for name, value in fresh.items():
        own = vars(module).get(name)
        rounded = isinstance(own, float) and isinstance(value, float) and math.isclose(own, value, rel_tol=1e-12)
        if rounded or (name in _REPEATED and name in vars(module)):
            setattr(module, name, value)


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
