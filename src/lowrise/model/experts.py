"""Experts of a mixture, whose matrices lie in one tensor: what each is given, and what the stream takes of it.

A module of experts computes all of them at once, so that no hook sees what an expert's last matrix is given. It is
shown by the module itself: called once for every pair of a token and an expert that the router chose for it, with a
part of the identity in the place of the last matrices, it returns what they are given, times the router's weight. So
nothing of a family's activation, clipping or order of gate and value is known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowrise.model.batching import heard, joined_rows
from lowrise.model.matrices import close

# In the words of the families: the last matrices of a module of experts.
OUTPUTS = ("down_proj",)


@dataclass(frozen=True)
class Routed:
    """given: (n, k) of as many pairs; experts, tokens: (n,), whose they are, tokens of a batch counted on; count: of
    all its tokens.
    """

    given: Tensor
    experts: Tensor
    tokens: Tensor
    count: int


@dataclass(frozen=True)
class Experts:
    """module: theirs, at `path` in the layer. output: its parameter (E, k, d), or (E, d, k) unless `input_first`.

    reads: its parameters (E, d, ·), or (E, ·, d), that are given what the module is given. factor: what the layer
    multiplies by, of what the module makes.
    """

    module: nn.Module
    path: str
    output: str
    reads: tuple[str, ...]
    input_first: bool
    factor: float = 1.0

    @property
    def parameter(self) -> str:
        """The path of the last matrices in the layer."""
        return f"{self.path}.{self.output}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, k, d)"""
        count, *both = self._own(self.output).shape
        k, d = both if self.input_first else reversed(both)
        return count, k, d

    def matrix(self, weight: Tensor, expert: int) -> Tensor:
        """W (k, d), float32, of what the module stores, so that the stream is given A·W, A as of `Routed.given`."""
        own = weight[expert] if self.input_first else weight[expert].T
        return self.factor * own.float()

    def stored(self, matrix: Tensor) -> Tensor:
        """W (k, d) → as the module stores it."""
        own = matrix if self.factor == 1 else matrix / self.factor
        return own if self.input_first else own.T

    def routed(self, *args: Any, **kwargs: Any) -> Routed:
        """Of a call of the module, by its parameters as they are now.

        Raises TypeError for a call that is neither (tokens, their experts, the router's weights) nor (tokens, once for
        every expert, as it is given them).
        """
        pairs, experts, tokens, count = self._pairs(args, kwargs)
        _, k, d = self.shape
        parts = [self._called(pairs, _part_of_identity(k, d, start)) for start in range(0, k, d)]
        given = torch.cat([part[:, : min(d, k - start)] for part, start in zip(parts, range(0, k, d), strict=True)], 1)
        real = experts >= 0
        return Routed(given[real], experts[real], tokens[real], count)

    def made(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(what the module makes by its matrices, what it makes by its biases), (·, d) each, of a call."""
        bound = _bound(self.module, args, kwargs)
        made, biases = (self._called(bound, value) for value in (None, torch.zeros(self.shape[1:])))
        return made - biases, biases

    def reads_alike(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether all `reads` are given what the module is: tried with each channel of it times another number."""
        bound = _bound(self.module, args, kwargs)
        hidden = next(iter(bound.arguments.values()))
        by = torch.linspace(0.5, 1.5, hidden.shape[-1], device=hidden.device, dtype=hidden.dtype)
        axis = by.unsqueeze(-1) if self.input_first else by
        scaled = {name: by_channel for name in self.reads if (by_channel := self._scaled(name, axis)) is not None}
        if len(scaled) < len(self.reads):
            return False
        first = next(iter(bound.arguments))
        expected = self._called(_with(bound, {first: hidden * by}), None)
        found = _called(self.module, scaled, bound)
        return close(found.float(), expected.float())

    def _own(self, name: str) -> Tensor:
        """A parameter as it is now: within a call of the layer with others, one of those."""
        value = getattr(self.module, name)
        assert isinstance(value, Tensor)
        return value.detach()

    def _scaled(self, name: str, by: Tensor) -> Tensor | None:
        own = self._own(name)
        width = own.shape[1 if self.input_first else 2]
        return own * by if width == by.numel() else None

    def _pairs(self, args: Any, kwargs: Any) -> tuple[inspect.BoundArguments, Tensor, Tensor, int]:
        """(the call for each pair of a token and an expert by itself, their experts, their tokens, how many)."""
        bound = _bound(self.module, args, kwargs)
        names = list(bound.arguments)
        values = [bound.arguments[name] for name in names]
        count = self.shape[0]
        if len(values) == 1:
            hidden = values[0].flatten(0, -2)
            apart = torch.arange(len(hidden), device=hidden.device)
            each = len(hidden) // count
            chosen = hidden.any(-1)
            return bound, (apart // each).where(chosen, -1), apart % each, each
        whole = [name for name, value in zip(names, values, strict=True) if _is_index(value)]
        if len(values) != 3 or len(whole) != 1 or values[1].shape != values[2].shape:
            raise TypeError("a module of experts that is called in another way")
        hidden, index = values[0].flatten(0, -2), bound.arguments[whole[0]]
        each = index.shape[-1]
        experts = index.flatten()
        real = (experts >= 0) & (experts < count)
        (weights,) = (name for name in names[1:] if name != whole[0])
        tokens = torch.arange(len(hidden), device=hidden.device).repeat_interleave(each)
        changes = {names[0]: hidden[tokens], whole[0]: experts.where(real, 0).unsqueeze(-1)}
        changes[weights] = (bound.arguments[weights].flatten() * real).unsqueeze(-1)
        return _with(bound, changes), experts.where(real, -1), tokens, len(hidden)

    def _called(self, bound: inspect.BoundArguments, matrix: Tensor | None) -> Tensor:
        """The module, flattened to (·, d); with `matrix` (k, d) in the place of every last one, and without biases."""
        own = self._own(self.output)
        instead = {}
        if matrix is not None:
            stored = (matrix if self.input_first else matrix.T).to(own)
            # without copies on a CPU; grouped products of accelerators want a tensor of the usual strides
            every = stored.expand(own.shape)
            instead[self.output] = every if own.device.type == "cpu" else every.contiguous()
            if hasattr(self.module, bias := f"{self.output}_bias") and matrix.any():
                instead[bias] = torch.zeros_like(self._own(bias))
        return _called(self.module, instead, bound).flatten(0, -2)


def _joined(parts: Sequence[Routed]) -> Routed:
    """Of the parts of a batch."""
    before = [0, *accumulate(part.count for part in parts)]
    tokens = [part.tokens + first for part, first in zip(parts, before, strict=False)]
    given, experts = ([getattr(part, name) for part in parts] for name in ("given", "experts"))
    return Routed(joined_rows(given), joined_rows(experts), joined_rows(tokens), before[-1])


@contextmanager
def routing(experts: Experts) -> Iterator[list[Routed]]:
    """While it lasts, what the experts are given is appended to the list that it yields, call by call."""
    with (
        heard(_joined) as seen,
        calls_of(experts.module, lambda args, kwargs: seen.append(experts.routed(*args, **kwargs))),
    ):
        yield seen


@contextmanager
def calls_of(module: nn.Module, look: Callable[[tuple[Any, ...], dict[str, Any]], object]) -> Iterator[None]:
    """While it lasts, `look` is told how `module` is called."""

    def told(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        look(args, kwargs)

    hook = module.register_forward_pre_hook(told, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def experts_of(module: nn.Module, path: str, d: int) -> list[Experts]:
    """What `module` may be, to be tried: none unless it holds last matrices in one tensor, each to (d,)."""
    own = {name: value for name, value in module.named_parameters(recurse=False) if value.dim() == 3}
    found = []
    for output in OUTPUTS:
        if output not in own:
            continue
        reads = tuple(name for name in own if name != output)
        for input_first in (False, True):
            if own[output].shape[2 if input_first else 1] == d:
                found.append(Experts(module, path, output, reads, input_first))
    return found


def sum_by_token(experts: Experts, routed: Routed, weight: Tensor, tokens: int) -> Tensor:
    """(tokens, d), float32: what the stream is given by experts with last matrices `weight`, biases left out."""
    written = torch.zeros(tokens, experts.shape[2], device=weight.device)
    for expert in routed.experts.unique().tolist():
        rows = routed.experts == expert
        made = routed.given[rows].float() @ experts.matrix(weight, expert)
        written.index_add_(0, routed.tokens[rows], made)
    return written


class _Unwatched(nn.Module):
    """Calls a module, but none of its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def _called(module: nn.Module, instead: dict[str, Tensor], bound: inspect.BoundArguments) -> Tensor:
    own = {f"module.{name}": value for name, value in instead.items()}
    made: Tensor = functional_call(_Unwatched(module), own, bound.args, bound.kwargs)
    return made


def _part_of_identity(k: int, d: int, start: int) -> Tensor:
    """(k, d), with which inputs `start` and on come out as they are."""
    part = torch.zeros(k, d)
    part[start:, :] = torch.eye(k - start, d)
    return part


def _is_index(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point()


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    return inspect.signature(module.forward).bind(*args, **kwargs)


def _with(bound: inspect.BoundArguments, changes: dict[str, Tensor]) -> inspect.BoundArguments:
    made = inspect.BoundArguments(bound.signature, bound.arguments.copy())
    made.arguments.update(changes)
    return made
