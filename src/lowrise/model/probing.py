"""Settings that follow the layers and stand in no table: each kind of the table is tried for each that may be one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import nn

from lowrise.model.cut import attempt
from lowrise.model.depth import depth
from lowrise.model.following import ROWS
from lowrise.model.splice import kind_of_layer
from lowrise.model.trial import twin
from lowrise.restriction import Restriction

_OF_NUMBERS = ("first", "last", "behind")
_OF_LISTS = ("entries", "numbers", "numbers from one")
_MOST = 60  # trials, each a stack without memory: a config has a few dozen small numbers at most


def unknown_rows(model: Any, path: str, where: str, restrictions: Sequence[Restriction]) -> Mapping[str, str]:
    """The row under which stock transformers builds the stack without one layer of every kind, or without the middle
    one; none where it does so anyway, or under no row.

    path: of the layers. restrictions: of cuts, known already. One setting is looked for: of two unknown ones neither
    shows.
    """
    stack = model.get_submodule(path)
    for gone in (one_of_every_kind(stack), {len(stack) // 2}):
        kept = [layer for layer in range(len(stack)) if layer not in gone]
        tried = gone and kept and all(restriction.allows(kept) for restriction in restrictions)
        if not tried or attempt(twin(model), path, kept, where, {}) is None:
            continue
        for name, kind in islice(_candidates(model.config.get_text_config(decoder=True)), _MOST):
            if attempt(twin(model), path, kept, where, {name: kind}) is None:
                return {name: kind}
    return {}


def one_of_every_kind(stack: nn.ModuleList) -> set[int]:
    """The middle layer of those that are alike, of every kind of which there is more than one."""
    groups: dict[str, list[int]] = {}
    for index, layer in enumerate(stack):
        groups.setdefault(kind_of_layer(layer), []).append(index)
    return {group[len(group) // 2] for group in groups.values() if len(group) > 1}


def _candidates(config: Any) -> Iterator[tuple[str, str]]:
    layers = depth(config)
    for name, value in list(vars(config).items()):
        if name in ROWS or name.startswith("_") or isinstance(value, bool):
            continue
        if isinstance(value, int) and 0 <= value <= layers:
            yield from ((name, kind) for kind in _OF_NUMBERS)
        if isinstance(value, list | tuple) and value and all(isinstance(one, int) for one in value):
            kinds = _OF_LISTS if len(value) == layers else _OF_LISTS[1:]
            yield from ((name, kind) for kind in kinds)
        elif isinstance(value, list | tuple | str) and len(value) == layers:
            yield name, "entries"
