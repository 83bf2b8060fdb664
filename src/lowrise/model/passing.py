"""What passes from layer to layer: the residual stream, in whatever form, and what some layers lend to later ones."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lowrise.errors import ModelError

_OF_THE_HEAD = "logits_to_keep"


@dataclass(frozen=True)
class LayerArguments:
    """How the model called one layer, the residual stream left out.

    of_rows: how it calls all layers with the rows [start, stop) of the batch alone; None where that is not known.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    of_rows: Callable[[int, int], Sequence[LayerArguments]] | None = field(default=None, compare=False, repr=False)

    @property
    def lent(self) -> list[LentStates]:
        return [value for value in self.kwargs.values() if isinstance(value, LentStates)]


@dataclass(frozen=True)
class Form:
    """What layers return, and how their stream lies.

    others: outputs beside the stream, None where they return it alone. as_list: whether they come in a list.
    streams_first: a stream of several, (streams, batch, tokens, hidden); elsewhere ours is (batch, tokens, streams,
    hidden).
    """

    others: int | None = None
    as_list: bool = False
    streams_first: bool = False

    def returned(self, stream: Tensor) -> Any:
        """A layer's output, as the model expects it."""
        if self.others is None:
            return stream
        return [stream, *[None] * self.others] if self.as_list else (stream, *[None] * self.others)

    def ours(self, stream: Tensor) -> Tensor:
        """As it lies with the model → (batch, tokens, ..., hidden)."""
        return stream.movedim(0, 2) if self.streams_first else stream

    def theirs(self, stream: Tensor) -> Tensor:
        return stream.movedim(2, 0) if self.streams_first else stream


def form_of(output: Any, ids: Tensor) -> Form:
    """Of a layer that returned `output` for ids (1, tokens)."""
    parts = len(output) - 1 if isinstance(output, tuple | list) else None
    stream = output if parts is None else output[0]
    first = stream.dim() == 4 and stream.shape[:2] != ids.shape and stream.shape[1:3] == ids.shape
    return Form(parts, isinstance(output, list), first)


class LentStates(UserDict[Any, Any]):
    """Keys and values that layers put down for later ones, in one run from some layer on upwards.

    A new run begins with nothing: what another one left behind would be another student's. below: what layers below
    lent in the run that this one goes on, asked for whenever one begins.
    """

    def __init__(self, below: Callable[[], Mapping[Any, Any]] | None = None) -> None:
        super().__init__()
        self._below, self._last = below, -1

    def enter(self, layer: int) -> None:
        """Layer `layer` is called next."""
        begins = layer <= self._last
        if begins:
            self.data.clear()
        if self._below is not None and (begins or self._last < 0):
            self.data.update(self._below())
        self._last = layer

    def to(self, device: torch.device, **_: Any) -> LentStates:
        """What lies in it on `device` from now on: the layer that takes it is there."""
        self.data = {key: _moved(value, device) for key, value in self.data.items()}
        return self

    def __missing__(self, key: Any) -> Any:
        raise ModelError(
            f"layer {self._last}",
            "the keys and values of a layer below it, which it takes",
            f"none of {key}: the run began above that layer",
            "choose a preset that runs all layers in order, such as streamline-none",
        )


def with_lent_states(calls: Sequence[LayerArguments]) -> list[LayerArguments]:
    """The same calls, with ours for each empty mapping that all layers are given: they put things into it."""
    if not calls:
        return []
    names = [
        name
        for name, value in calls[0].kwargs.items()
        if isinstance(value, MutableMapping) and not value and all(call.kwargs.get(name) is value for call in calls)
    ]
    ours = {name: LentStates() for name in names}
    return [replace(call, kwargs={**call.kwargs, **ours}) for call in calls] if names else list(calls)


def with_rows(
    calls: Sequence[LayerArguments], of_rows: Callable[[int, int], Sequence[LayerArguments]]
) -> list[LayerArguments]:
    """The same calls, which know those of some rows alone; these are made once for all layers."""
    made = cache(of_rows)
    return [replace(call, of_rows=made) for call in calls]


def moved(call: LayerArguments, device: torch.device) -> LayerArguments:
    """The same call with all its tensors on `device`."""
    return replace(call, args=_moved(call.args, device), kwargs=_moved(call.kwargs, device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | LentStates):
        return value.to(device)
    if isinstance(value, tuple | list):
        parts = [_moved(item, device) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if type(value) is dict:
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def same_value(one: Any, other: Any) -> bool:
    """Whether two arguments of a layer are the same, as far as they are numbers and names."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other.to(one.device))
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same_value(one[k], other[k]) for k in one)
    if isinstance(one, bool | int | float | str | None):
        return type(one) is type(other) and one == other
    return other is not None


def another_argument(one: LayerArguments, other: LayerArguments) -> tuple[str, Any, Any] | None:
    """(name, value, other value) of the first argument that differs between two calls of a layer.

    Words that only one of them is given, without numbers of the model in them, ask for more output and change nothing.
    Nor does what the head is asked for, which some models pass on to their layers.
    """
    named = [{str(at): value for at, value in enumerate(call.args)} | call.kwargs for call in (one, other)]
    for name in [*named[0], *(name for name in named[1] if name not in named[0])]:
        mine, its = named[0].get(name), named[1].get(name)
        asked = (name in named[0]) != (name in named[1]) and all(isinstance(v, bool | str | None) for v in (mine, its))
        if not asked and name != _OF_THE_HEAD and not same_value(mine, its):
            return name, mine, its
    return None
