"""A stack without some of its layers, and whether stock transformers builds the same from its config."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrise.model.following import REPEATED
from lowrise.model.periods import PERIODS

_INDEX_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
# Attributes in which layers repeat settings that follow a cut.
_REPEATED = (*REPEATED, *PERIODS)
_TIED = ("_tied_weights_keys", "all_tied_weights_keys")
_PLAIN = bool | int | float | str | torch.dtype | None


def renumber(layers: nn.ModuleList, kept: Sequence[int]) -> None:
    """Give every submodule that knows its layer's index, one of `kept`, the index where the layer now stands."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in _INDEX_NAMES:
                if getattr(module, name, None) == kept[index]:
                    setattr(module, name, index)


def stock_of(model: Any, change: Callable[[Any], None] | None = None) -> Any:
    """What a fresh load of the model's config builds, as it would be written, without memory.

    change: done to the text model's config before.
    """
    config = type(model.config).from_dict(model.config.to_dict())
    if change is not None:
        change(config.get_text_config(decoder=True))
    with torch.device("meta"):
        return type(model)(config)


def first_difference(model: Any, path: str, change: Callable[[Any], None]) -> str | None:
    """Between the layers at `path` and those that stock transformers builds with a changed config."""
    try:
        stock = stock_of(model, change)
    except Exception as error:  # noqa: BLE001 - whatever a family's own checks raise
        return f"no stack: {error}"
    ours, theirs = (dict(one.get_submodule(path).named_modules()) for one in (model, stock))
    if ours.keys() != theirs.keys():
        return "other submodules"
    return next((name for name in ours if _facts(ours[name]) != _facts(theirs[name])), None)


def difference(model: Any, path: str, kept: Sequence[int]) -> str | None:
    """The first one between the spliced layers of `model` and those that the stock class builds from its config.

    Compares class, plain attributes (index, window, attention type, scaling), parameters and buffers of every
    submodule. Attributes that only repeat a setting which followed the cut, or the number of a layer, are brought up
    to date. What lies outside the layers is cut to the same layers where it has a part for each of them. path: of the
    layers. kept: the numbers that they had.
    """
    stock = stock_of(model)
    ours, theirs = model.get_submodule(path), stock.get_submodule(path)
    if len(ours) != len(theirs):
        return f"{len(ours)} layers are left, but a fresh load of the new config builds {len(theirs)}"
    found = _between(ours, theirs, kept, "layers")
    return found if found is not None else _around(model, stock, path, kept)


def _between(ours: nn.Module, theirs: nn.Module, kept: Sequence[int], label: str) -> str | None:
    fresh_modules = dict(theirs.named_modules())
    own_modules = dict(ours.named_modules())
    for name in [*own_modules, *(name for name in fresh_modules if name not in own_modules)]:
        own, other = own_modules.get(name), fresh_modules.get(name)
        where = f"{label}.{name}" if name else label
        if own is None or other is None:
            which = ("nothing", type(other).__name__) if own is None else (type(own).__name__, "nothing")
            return f"{where} is {which[0]}, but a fresh load of the new config gives {which[1]}"
        mine, fresh = _facts(own), _facts(other)
        if mine != fresh:
            _follow(own, fresh, kept, name)
            mine = _facts(own)
        for key in mine.keys() | fresh.keys():
            if mine.get(key) != fresh.get(key):
                found, expected = mine.get(key), fresh.get(key)
                return f"{where}.{key} is {found!r}, but a fresh load of the new config gives {expected!r}"
    return None


def _follow(module: nn.Module, fresh: dict[str, Any], kept: Sequence[int], path: str) -> None:
    """Repeat the settings as they are now; a quotient of two that moved alike may differ in its last digit."""
    head = path.partition(".")[0]
    new = int(head) if head.isdigit() else -1
    for name, value in fresh.items():
        own = vars(module).get(name)
        rounded = isinstance(own, float) and isinstance(value, float) and math.isclose(own, value, rel_tol=1e-12)
        repeated = name in _REPEATED and name in vars(module)
        moved = _names_a_layer(name) and _is_moved(own, value, kept, new)
        if rounded or repeated or moved or _is_cut(own, value, kept):
            setattr(module, name, value)


def _names_a_layer(name: str) -> bool:
    return "layer" in name or "idx" in name or "index" in name


def _is_moved(own: Any, fresh: Any, kept: Sequence[int], new: int) -> bool:
    """Whether the two are the old and the new number of one layer, or of one of two parts that each layer counts."""
    if not _is_number(own) or not _is_number(fresh):
        return False
    if own in kept and kept.index(own) == fresh:
        return True
    return bool(own // 2 == kept[new] and fresh // 2 == new and own % 2 == fresh % 2)


def _is_cut(own: Any, fresh: Any, kept: Sequence[int]) -> bool:
    """Whether the two are one entry a layer, or layers' numbers, before and after the cut."""
    if isinstance(own, dict) and isinstance(fresh, dict) and own and all(map(_is_number, own)):
        return {kept.index(key): value for key, value in own.items() if key in kept} == fresh
    if not isinstance(own, list | tuple) or not isinstance(fresh, list | tuple):
        return False
    entries = len(own) > max(kept) and [own[index] for index in kept] == list(fresh)
    numbers = all(map(_is_number, own)) and [kept.index(one) for one in own if one in kept] == list(fresh)
    return (entries and len(fresh) == len(kept)) or numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -- what lies around the layers ------------------------------------------------------------------------------------


def _around(model: Any, stock: Any, path: str, kept: Sequence[int]) -> str | None:
    """The first difference outside the layers that the cut does not explain; those that it explains are made good."""
    fresh = dict(stock.named_modules())
    own = dict(model.named_parameters(remove_duplicate=False))
    for key, other in (getattr(stock, "all_tied_weights_keys", None) or {}).items():
        if key in own and other in own and own[key] is not own[other]:
            return f"{key} and {other} are two, but a fresh load of the new config has them in one"
    for name, module in list(model.named_modules()):
        if name == path or name.startswith(f"{path}.") or isinstance(module, nn.ModuleList | nn.ParameterList):
            continue
        other = fresh.get(name)
        if other is None:
            continue  # of a list that has one a layer, or a network of ours
        for child, listed in list(module.named_children()):
            theirs = getattr(other, child, None)
            if f"{name}.{child}".lstrip(".") != path and isinstance(listed, nn.ModuleList | nn.ParameterList):
                _cut_list(module, child, listed, theirs, kept)
        found = _cut_tensors(module, other, name, kept)
        if found is not None:
            return found
        tied = {key: vars(other)[key] for key in _TIED if key in vars(other)}
        for key, value in (_plain(other) | tied).items():
            if key in vars(module) and vars(module)[key] != value:
                setattr(module, key, value)
    return None


def _cut_list(module: nn.Module, name: str, listed: Any, theirs: Any, kept: Sequence[int]) -> None:
    """A list outside the stack with an entry for each layer."""
    if theirs is not None and len(listed) > len(theirs) == len(kept) and len(listed) > max(kept):
        setattr(module, name, type(listed)([listed[index] for index in kept]))


def _cut_tensors(module: nn.Module, other: nn.Module, name: str, kept: Sequence[int]) -> str | None:
    """Parameters outside the stack with a part for each layer along one axis."""
    fresh = dict(other.named_parameters(recurse=False))
    for key, own in list(module.named_parameters(recurse=False)):
        new = fresh.get(key)
        if new is None or new.shape == own.shape:
            continue
        axis = _layer_axis(own, new, len(kept))
        if axis is None:
            return (
                f"{name}.{key} has the shape {tuple(own.shape)}, but a fresh load of the new config gives "
                f"{tuple(new.shape)}"
            )
        width = new.shape[axis] // len(kept)
        layers = own.shape[axis] // width
        parts = own.detach().unflatten(axis, (layers, width))
        taken = parts.index_select(axis, torch.tensor(kept, device=own.device)).flatten(axis, axis + 1).contiguous()
        setattr(module, key, nn.Parameter(taken, requires_grad=own.requires_grad))
    return None


def _layer_axis(own: Tensor, new: Tensor, count: int) -> int | None:
    """The one along which `new` has `count` parts of those that `own` has more of; None if there is none."""
    if own.dim() != new.dim():
        return None
    axes = [axis for axis in range(own.dim()) if own.shape[axis] != new.shape[axis]]
    if len(axes) != 1 or new.shape[axes[0]] % count or own.shape[axes[0]] % (new.shape[axes[0]] // count):
        return None
    return axes[0] if own.shape[axes[0]] > new.shape[axes[0]] else None


# -- what is seen of a module ---------------------------------------------------------------------------------------


def layer_facts(layer: nn.Module) -> dict[str, Any]:
    """Class, plain attributes, parameter and buffer shapes of every submodule by path, the layer's index left out."""
    facts: dict[str, Any] = {}
    for name, module in layer.named_modules():
        own = _facts(module)
        facts |= {f"{name}.{key}".lstrip("."): value for key, value in own.items() if key not in _INDEX_NAMES}
    return facts


def kind_of_layer(layer: nn.Module) -> str:
    """The same for layers that are alike but for their index."""
    return repr(sorted(layer_facts(layer).items(), key=str))


def _facts(module: nn.Module) -> dict[str, Any]:
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters(recurse=False)}
    buffers = {name: tuple(b.shape) for name, b in module.named_buffers(recurse=False)}
    return {"class": type(module).__name__} | _plain(module) | shapes | buffers


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value  # as JSON has them
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    return isinstance(value, _PLAIN)


def computed_buffers(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(path, value) of buffers that no checkpoint holds: every load makes them anew."""
    for path, module in layer.named_modules():
        for name, value in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set:
                yield f"{path}.{name}".lstrip("."), value
