"""Keys and values that layers lend to later ones: which layer lends what, and a run that goes on in the middle.

A run from the first layer on finds them where its calls hold them (`model/passing.py`). One that begins at a stored
state needs what the layers below lent on the way to that state: `lent_in` says what that was, and `going_on` makes the
calls of the run that takes it up. In most families nothing is lent, and neither does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.layer import REMEDY, LayerArguments
from lowrise.model.passing import LentStates

ALONE = -1
"""The number of a tensor that is lent by itself."""

Place = tuple[str, Any, int]
"""Where a tensor is lent: the argument of the layers, the key in it, and its number among those under the key."""

Lent = Mapping[Place, Tensor]

# By depth, for a cut gives layers other numbers; by layer, what it lends.
_FOUND: WeakKeyDictionary[Decoder, dict[int, dict[int, tuple[Place, ...]]]] = WeakKeyDictionary()


def lent_in(calls: Sequence[LayerArguments]) -> dict[Place, Tensor]:
    """What layers have lent so far in the run that `calls` are of. Raises ModelError where that is no tensors."""
    found: dict[Place, Tensor] = {}
    for name, value in calls[0].kwargs.items() if calls else ():
        if isinstance(value, LentStates):
            for key, lent in value.items():
                parts = dict(enumerate(lent)) if isinstance(lent, tuple | list) else {ALONE: lent}
                found.update({(name, key, number): part for number, part in parts.items()})
    others = {type(value).__name__ for value in found.values() if not isinstance(value, Tensor)}
    if others:
        raise ModelError("layers that lend states", "tensors", f"{', '.join(sorted(others))}", REMEDY)
    return found


def going_on(calls: list[LayerArguments], below: Callable[[], Lent]) -> list[LayerArguments]:
    """The same calls, of runs that go on above layers that lent `below`, which is asked for when one begins."""
    names = [name for name, value in calls[0].kwargs.items() if isinstance(value, LentStates)] if calls else []
    if not names:
        return calls
    ours = {name: LentStates(lambda name=name: _under(below(), name)) for name in names}  # type: ignore[misc]
    return [replace(call, kwargs={**call.kwargs, **ours}) for call in calls]


def lends(decoder: Decoder) -> dict[int, tuple[Place, ...]]:
    """By layer that lends something, what; asked of a few tokens, once for every depth."""
    of_depth = _FOUND.setdefault(decoder, {})
    if len(decoder) not in of_depth:
        of_depth[len(decoder)] = {layer: tuple(made) for layer, _, _, made in _lending(decoder) if made}
    return of_depth[len(decoder)]


def sources_below(decoder: Decoder, layer: int) -> dict[Place, int]:
    """What is lent to `layer` and those above it by layers below, and which one of them lends it last."""
    return {place: source for source, places in sorted(lends(decoder).items()) if source < layer for place in places}


def probe_calls(decoder: Decoder) -> Iterator[tuple[int, Tensor, list[LayerArguments]]]:
    """(layer, h[0], the layers' calls) of every layer on a few tokens, the stream that enters the stack given to each,
    and what layers below lend when they are given that too.
    """
    for layer, h, calls, _ in _lending(decoder):
        yield layer, h, calls


@torch.no_grad()
def leading(decoder: Decoder, layer: int) -> set[str]:
    """Paths of those of a layer's parameters that what it lends is made of."""
    if layer not in lends(decoder):
        return set()
    h, calls = next((h, calls) for one, h, calls in probe_calls(decoder) if one == layer)
    with torch.enable_grad():
        own = {name: value.detach().requires_grad_() for name, value in decoder.layers[layer].named_parameters()}
        decoder.step(layer, h, calls, own)
        lent = [value.float().sum() for place, value in lent_in(calls).items() if place in lends(decoder)[layer]]
        made = [value for value in lent if value.requires_grad]
        gradients = torch.autograd.grad(made, list(own.values()), allow_unused=True) if made else [None] * len(own)
    return {name for name, gradient in zip(own, gradients, strict=True) if gradient is not None}


@torch.no_grad()
def _lending(decoder: Decoder) -> Iterator[tuple[int, Tensor, list[LayerArguments], list[Place]]]:
    """As of `probe_calls`, and what the layer lends."""
    h, calls = decoder.embed(decoder.probe_ids)
    lent: dict[Place, Tensor] = {}
    for layer in range(len(decoder)):
        here = going_on(calls, dict(lent).copy)
        made: list[Place] = []
        if any(call.lent for call in calls[layer : layer + 1]):
            decoder.step(layer, h, here)
            now = lent_in(here)
            made = [place for place, value in now.items() if value is not lent.get(place)]
            lent = now
        yield layer, h, here, made


def _under(lent: Lent, name: str) -> dict[Any, Any]:
    """What lies in an argument of the layers, as they put it there."""
    found: dict[Any, Any] = {}
    for (argument, key, number), value in lent.items():
        if argument == name and number == ALONE:
            found[key] = value
        elif argument == name:
            found[key] = (*found.get(key, ()), value)
    return found
