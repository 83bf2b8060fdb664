"""A layer that is run while it is watched: what its modules are called with, and what leaves it when some make more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrise.errors import UNUSABLE
from lowrise.model.blocks import ExpertsNames
from lowrise.model.experts import calls_of, experts_of, sum_by_token
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.matrices import close

TIMES = 256.0  # so many times as much a module makes when it is tried; within what float16 can hold


@dataclass
class Call:
    """A module that was called once. given, made: (tokens, ·), float32; own: of `made` what is linear in a matrix.

    place: its number in the order of calls. Of experts that are called once for every token and expert, `given`,
    `made` and `own` are of so many tokens.
    """

    path: str
    place: int
    given: Tensor
    made: Tensor
    own: Tensor | None = None
    experts: ExpertsNames | None = None


@dataclass
class Trial:
    """A layer that is run with some of its modules silent. h: (1, tokens, hidden), what enters it."""

    layer: Layer
    h: Tensor
    arguments: LayerArguments
    silent: set[str] = field(default_factory=set)

    @property
    def tokens(self) -> int:
        return int(self.h.shape[1])

    def run(
        self, louder: str = "", more: Tensor | None = None, watch: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(what leaves the layer, what the modules `watch` are given), (tokens, d).

        louder: the module that makes `more` in addition, or, without it, TIMES as much.
        """
        seen: dict[str, Tensor] = {}

        def add(out: Tensor) -> Tensor:
            return TIMES * out if more is None else out + more.view_as(out).to(out.dtype)

        with ExitStack() as stack:
            for path in watch:
                stack.enter_context(_watched(self._module(path), path, seen))
            for path in self.silent:
                stack.enter_context(_changed(self._module(path), torch.zeros_like))
            if louder:
                stack.enter_context(_changed(self._module(louder), add))
            out = self.layer.call(self.h, self.arguments)
        return _flat(out), seen

    def _module(self, path: str) -> nn.Module:
        return self.layer.module.get_submodule(path)


def calls_in(layer: Layer, h: Tensor, arguments: LayerArguments) -> list[Call]:
    """Of modules that are called once, in order; what they are given and make as it is with all others unchanged."""
    seen: dict[str, list[Call]] = {}

    def looking(path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            given = _first(args, kwargs)
            if not isinstance(given, Tensor) or not isinstance(out, Tensor):
                return
            call = Call(path, sum(map(len, seen.values())), _flat(given), _flat(out))
            _tell(call, module, (args, kwargs), h.shape)
            seen.setdefault(path, []).append(call)

        return look

    with ExitStack() as stack:
        for path, module in layer.module.named_modules():
            if path and (is_norm(module) or any(True for _ in module.parameters(recurse=False))):
                hook = module.register_forward_hook(looking(path), with_kwargs=True)
                stack.callback(hook.remove)
        layer.call(h, arguments)
    return [calls[0] for calls in seen.values() if len(calls) == 1]


def _tell(call: Call, module: nn.Module, how: tuple[tuple[Any, ...], dict[str, Any]], shape: torch.Size) -> None:
    """Note what of the call's output is linear in a matrix, or in the matrices of experts. shape: of the stream."""
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    if isinstance(weight, Tensor) and weight.dim() == 2:
        matrix = (weight.T if isinstance(module, nn.Linear) else weight).float()
        if matrix.shape == (call.given.shape[-1], call.made.shape[-1]):
            own = call.given @ matrix
            call.own = own if close(own if bias is None else own + bias.float(), call.made) else None
        return
    tokens, d = shape[1], shape[-1]
    for experts in experts_of(module, call.path, d):
        try:
            routed, (made, biases) = experts.routed(*how[0], **how[1]), experts.made(*how)
        except UNUSABLE:  # code that is called in another way
            continue
        by_token = made.float().view(-1, tokens, d).sum(0)
        if close(made.float() + biases.float(), call.made) and close(
            sum_by_token(experts, routed, module.get_parameter(experts.output), tokens), by_token
        ):
            call.own = made.float()
            reads = experts.reads if experts.reads_alike(*how) else ()
            call.experts = ExpertsNames(call.path, experts.shape[0], experts.output, reads, experts.input_first)
            return


def is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and all(value.dim() == 1 for value in module.parameters())


@contextmanager
def _changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, the module makes something else."""
    hook = module.register_forward_hook(lambda _module, _args, out: change(out))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _watched(module: nn.Module, path: str, seen: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts, what the module is given lies in `seen`."""

    def note(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _first(args, kwargs)
        if isinstance(given, Tensor):
            seen[path] = _flat(given)

    with calls_of(module, note):
        yield


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _flat(value: Tensor) -> Tensor:
    """(tokens, ·), float32."""
    return value.detach().float().flatten(0, -2)
