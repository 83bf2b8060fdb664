"""How the settings of a stack follow its layers when some are gone: one table of kinds.

`ROWS` names the settings whose kind cannot be seen from their value. A list with one entry a layer, a list of layer
numbers and overrides by layer number are known by their form. What follows from a wrong row, or from a setting that
is in no row, differs from the layers that were kept: `splice.py` compares, `probing.py` looks for the kind.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lowrise.model.depth import depth, set_depth
from lowrise.model.extras import forget_predicting

Rule = Callable[[Any, Sequence[int], int], Any]
"""(value, the layers that are kept, layers before the cut) → the value after it."""


def _entries(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """One entry, or one letter, a layer."""
    taken = [value[index] for index in kept]
    return "".join(taken) if isinstance(value, str) else type(value)(taken)


def _first(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """How many of the first layers are of a kind; also the number of the first layer of another."""
    return sum(index < value for index in kept) if value >= 0 else value


def _last(value: Any, kept: Sequence[int], layers: int) -> Any:
    """The number of the last layer of a kind; -1 is the last of all."""
    return sum(index <= value for index in kept) - 1 if 0 <= value < layers - 1 else min(value, len(kept) - 1)


def _behind(value: Any, kept: Sequence[int], layers: int) -> Any:
    """How many of the last layers are of a kind."""
    return sum(index >= layers - value for index in kept)


def _numbers(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """Numbers of layers, from 0 on."""
    return type(value)(new for new, index in enumerate(kept) if index in value)


def _numbers_from_one(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """Numbers of layers, from 1 on."""
    return type(value)(new + 1 for new, index in enumerate(kept) if index + 1 in value)


def _repeated(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """Entries for several layers and how often they follow each other, [[["global", "local"], 12]]."""
    entries = [entry for listed, times in value for entry in listed * times]
    return [[[entries[index] for index in kept], 1]]


def _cycle(value: Any, kept: Sequence[int], _layers: int) -> Any:
    """Entries that are repeated until there is one for each layer; all of them, after."""
    return type(value)(value[index % len(value)] for index in kept)


def _root_of_depth(value: Any, kept: Sequence[int], layers: int) -> Any:
    """Divided by the square root of the stack's depth where it is used."""
    return value * math.sqrt(len(kept) / layers)


RULES: Mapping[str, Rule] = {
    "entries": _entries,
    "first": _first,
    "last": _last,
    "behind": _behind,
    "numbers": _numbers,
    "numbers from one": _numbers_from_one,
    "repeated": _repeated,
    "cycle": _cycle,
    "root of depth": _root_of_depth,
}

ROWS: Mapping[str, str] = {
    "first_k_dense_replace": "first",
    "max_window_layers": "first",
    "moe_layer_start_index": "first",
    "num_blocks": "first",
    "num_dense_layers": "first",
    "moe_layer_end_index": "last",
    "num_kv_shared_layers": "behind",
    "attn_layer_indices": "numbers",
    "cross_attention_layers": "numbers",
    "full_attn_idxs": "numbers",
    "global_attn_idxs": "numbers",
    "hybrid_layer_ids": "numbers",
    "local_layer_ids": "numbers",
    "mlp_only_layers": "numbers",
    "moe_layers": "numbers",
    "ple_layer_ids": "numbers from one",
    "hybrid_override_pattern": "entries",
    "intermediate_size": "entries",
    "attention_types": "repeated",
    "block_types": "cycle",
    "scale_depth": "root of depth",
}

# The stack's depth beside `num_hidden_layers`, in families whose config has more than one word for it.
REPEATED = ("scale_depth", "num_hidden_layers")


def follow(config: Any, kept: Sequence[int], more: Mapping[str, str] | None = None) -> None:
    """Every setting of `config` as it is for the layers `kept` alone; in place. more: rows beside the table's."""
    layers = depth(config)
    rows = {**ROWS, **(more or {})}
    for name, value in list(vars(config).items()):
        kind = _kind(name, value, layers, rows)
        if kind is not None and _fits(kind, value, layers):
            setattr(config, name, RULES[kind](value, kept, layers))
    _follow_overrides(config, kept)
    set_depth(config, len(kept))
    forget_predicting(config)


def per_layer_lists(config: Any) -> list[str]:
    """Names of the settings that hold one entry a layer: lists as long as the stack whose name speaks of layers."""
    layers = depth(config)
    return [
        name
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == layers and _kind(name, value, layers, ROWS) == "entries"
    ]


def _kind(name: str, value: Any, layers: int, rows: Mapping[str, str]) -> str | None:
    """The kind of a setting by the table, or else by its form and name; None for one that has nothing to do with
    layers, as far as seen.
    """
    if name in rows:
        return rows[name]
    if "mtp" in name or not isinstance(value, list | tuple | str):
        return None
    if any(word in name for word in ("layer", "pattern", "types")) and len(value) == layers:
        return "entries" if not isinstance(value, str) or "pattern" in name else None
    spoken = any(word in name for word in ("layers", "_ids", "idxs", "indices"))
    if spoken and value and not isinstance(value, str) and _are_numbers(value, layers):
        return "numbers"
    return None


def _are_numbers(value: Sequence[Any], layers: int) -> bool:
    numbers = all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < layers for one in value)
    return numbers and list(value) == sorted(set(value))


def _fits(kind: str, value: Any, layers: int) -> bool:
    """Whether the value can be of that kind: many settings are None, empty or off."""
    if kind == "entries":
        return isinstance(value, list | tuple | str) and len(value) == layers
    if kind == "cycle":
        return isinstance(value, list | tuple) and bool(value)
    if kind == "repeated":
        return isinstance(value, list) and sum(len(listed) * times for listed, times in value) == layers
    if kind.startswith("numbers"):
        return isinstance(value, list | tuple) and all(isinstance(one, int) for one in value)
    if kind == "root of depth":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool)


def _follow_overrides(config: Any, kept: Sequence[int]) -> None:
    """Settings that layers have of their own, by the layer's number (`per_layer_config`)."""
    spec = vars(config).get("_heterogeneity_spec")
    if spec is None:
        return
    spec = copy.deepcopy(spec)
    own = spec.per_layer_overrides
    spec.per_layer_overrides = {new: own[index] for new, index in enumerate(kept) if index in own}
    vars(config)["_heterogeneity_spec"] = spec
