"""How a layer reads and writes the stream, found by running it: for layers whose matrices no row names.

A linear module is a write if, when it makes so many times as much, the layer gives so many times as much of just that
to the stream. Later writes are silent meanwhile, for they are given what earlier ones make. What a norm stands behind
is told by the norm's input. Matrices that are given the same input are read together; a block ends where something is
read after something was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrise.model.blocks import BlockNames, ExpertsNames, ReadNames, WriteNames
from lowrise.model.experts import close, experts_of, sum_by_token
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.norms import Norm

TIMES = 256.0  # so many times as much a module makes when it is tried; within what float16 can hold

ROUTERS = frozenset({"router"})  # in the words of families


@dataclass
class _Call:
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


@dataclass(frozen=True)
class _Written:
    """factor: (tokens,), by which what a call makes is multiplied before the stream, or `norm`, is given it."""

    call: _Call
    factor: Tensor
    norm: str | None = None


@dataclass
class _Trial:
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


@torch.no_grad()
def find_blocks(layer: Layer, h: Tensor, arguments: LayerArguments) -> tuple[BlockNames, ...]:
    """The blocks of `layer`, in the order in which they read; none where nothing is found.

    h: (1, tokens, hidden), what enters it. What does not write as said above is left out; where that, or anything else,
    comes behind the last block that is found, an empty one stands for it.
    """
    calls = _calls(layer, h, arguments)
    norms = [call for call in calls if _is_norm(layer.module.get_submodule(call.path))]
    trial = _Trial(layer, h, arguments)
    written: list[_Written] = []
    for call in sorted(calls, key=lambda call: -call.place):
        if call.own is not None and call.own.shape[-1] == h.shape[-1]:
            found = _written(trial, call, [norm for norm in norms if norm.place > call.place])
            if found is not None:
                written.append(found)
                trial.silent.add(call.path)
    written = [one for one in written if one.norm is None or _is_alone(trial, one.norm, written, norms)]
    trial.silent.clear()
    found = _blocks(_reads(calls, written, norms, h), _writes(layer, calls, written))
    last = {write.module for block in found[-1:] for write in block.writes}
    if all(_is_last(trial, one, calls) for one in written if one.call.path in last):
        return found
    return (*found, BlockNames((), ()))


# -- what is called -------------------------------------------------------------------------------------------


def _calls(layer: Layer, h: Tensor, arguments: LayerArguments) -> list[_Call]:
    """Of modules that are called once, in order; what they are given and make as it is with all others unchanged."""
    seen: dict[str, list[_Call]] = {}

    def looking(path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(given, Tensor) or not isinstance(out, Tensor):
                return
            call = _Call(path, sum(map(len, seen.values())), _flat(given), _flat(out))
            _tell(call, module, (args, kwargs), h.shape)
            seen.setdefault(path, []).append(call)

        return look

    with ExitStack() as stack:
        for path, module in layer.module.named_modules():
            if path and (_is_norm(module) or any(True for _ in module.parameters(recurse=False))):
                hook = module.register_forward_hook(looking(path), with_kwargs=True)
                stack.callback(hook.remove)
        layer.call(h, arguments)
    return [calls[0] for calls in seen.values() if len(calls) == 1]


def _tell(call: _Call, module: nn.Module, how: tuple[tuple[Any, ...], dict[str, Any]], shape: torch.Size) -> None:
    """Note what of the call's output is linear in a matrix, or in the matrices of experts. shape: of the stream."""
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    if isinstance(weight, Tensor) and weight.dim() == 2:
        matrix = (weight.T if isinstance(module, nn.Linear) else weight).float()
        if matrix.shape == (call.given.shape[-1], call.made.shape[-1]):
            own = call.given @ matrix
            call.own = own if close(own if bias is None else own + bias.float(), call.made) else None
        return
    _, tokens, d = shape
    for experts in experts_of(module, call.path, d):
        try:
            routed, (made, biases) = experts.routed(*how[0], **how[1]), experts.made(*how)
        except (TypeError, RuntimeError):
            continue
        by_token = made.float().view(-1, tokens, d).sum(0)
        if close(made.float() + biases.float(), call.made) and close(
            sum_by_token(experts, routed, module.get_parameter(experts.output), tokens), by_token
        ):
            call.own = made.float()
            reads = experts.reads if experts.reads_alike(*how) else ()
            call.experts = ExpertsNames(call.path, experts.shape[0], experts.output, reads, experts.input_first)
            return


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and all(value.dim() == 1 for value in module.parameters())


# -- what is written ------------------------------------------------------------------------------------------


def _written(trial: _Trial, call: _Call, norms: list[_Call]) -> _Written | None:
    """How what `call` makes comes to the stream: as it is, times a factor, or through one of `norms`, of those behind
    it.
    """
    assert call.own is not None
    more = (TIMES - 1) * call.own
    by_token = more.view(-1, trial.tokens, more.shape[-1]).sum(0)
    watch = [norm.path for norm in norms if norm.given.shape == by_token.shape]
    (out, before), (louder, behind) = trial.run(watch=watch), trial.run(call.path, more, watch)
    factor = _factor(louder - out, by_token)
    if factor is not None:
        return _Written(call, factor)
    for path in watch:
        factor = _factor(behind[path] - before[path], by_token)
        if factor is not None:
            return _Written(call, factor, path) if _is_plain(trial, path, before[path], out) else None
    return None


def _factor(more: Tensor, made: Tensor) -> Tensor | None:
    """(tokens,): by which `made` (tokens, d) is multiplied in `more`, nan where nothing is made; None where that is
    something else.
    """
    factor = (more * made).sum(-1) / made.square().sum(-1)
    return factor if close(factor.nan_to_num().unsqueeze(-1) * made, more) else None


def _is_plain(trial: _Trial, path: str, y: Tensor, out: Tensor) -> bool:
    """Whether the norm makes v·y/rms(y) of what it is given and the stream takes that as it is. out: of the layer."""
    module = trial.layer.module.get_submodule(path)
    if [name for name, _ in module.named_parameters()] != ["weight"]:
        return False
    norm = Norm(module, f"{path}.weight")
    weight = trial.layer.parameter(norm.parameter)
    made, scaled = norm.of(y, weight), y * norm.scale(weight)
    louder, _ = trial.run(path)
    length = (made.norm(dim=-1) / scaled.norm(dim=-1)).nan_to_num().unsqueeze(-1)
    return close(length * scaled, made) and close(louder - out, (TIMES - 1) * made)


def _is_alone(trial: _Trial, norm: str, written: list[_Written], norms: list[_Call]) -> bool:
    """Whether the norm is given nothing but what is written through it."""
    trial.silent = {one.call.path for one in written if one.norm == norm}
    _, seen = trial.run(watch=[norm])
    (usual,) = (call.given for call in norms if call.path == norm)
    return float(seen[norm].norm()) < 0.01 * float(usual.norm())


def _is_last(trial: _Trial, one: _Written, calls: list[_Call]) -> bool:
    """Whether no module that is called later is given anything else when this one makes more: what such a module then
    makes may be too little to be seen beside that.
    """
    assert one.call.own is not None
    later = [call for call in calls if call.place > one.call.place and call.path != one.norm]
    _, seen = trial.run(one.call.path, (TIMES - 1) * one.call.own, [call.path for call in later])
    return all(torch.allclose(seen[call.path], call.given, rtol=1e-3) for call in later if call.path in seen)


def _writes(layer: Layer, calls: list[_Call], written: list[_Written]) -> list[tuple[int, WriteNames, str | None]]:
    """(place, write, the norm behind it), of those that are multiplied by what is known."""
    found = []
    for one in written:
        gate, factor = None, _constant(one.factor)
        for call in calls if factor is None else ():
            if call.made.shape == (len(one.factor), 1):
                gate, factor = call.path, _constant(one.factor / torch.sigmoid(call.made.flatten()))
                if factor is not None:
                    break
        if factor is not None:
            exact = _as_written(layer, factor)
            found.append((one.call.place, WriteNames(one.call.path, exact, gate, one.call.experts), one.norm))
    return found


def _constant(factor: Tensor) -> float | None:
    factor = factor[~factor.isnan()]
    mean = float(factor.mean())
    return mean if float((factor - mean).abs().max()) < 0.02 * abs(mean) else None


def _as_written(layer: Layer, factor: float) -> float:
    """The number that was meant: 1, or one that a module of the layer holds."""
    held = (value for module in layer.module.modules() for value in vars(module).values() if type(value) is float)
    meant = [value for value in (1.0, *held) if math.isclose(value, factor, rel_tol=0.02)]
    return min(meant, key=lambda value: abs(value - factor), default=factor)


# -- what is read ---------------------------------------------------------------------------------------------


def _reads(calls: list[_Call], written: list[_Written], norms: list[_Call], h: Tensor) -> list[tuple[int, ReadNames]]:
    """(place, what is read together), routers left out. h: what enters the layer."""
    writes = {one.call.path for one in written}
    groups: list[list[_Call]] = []
    for call in calls:
        if call.experts is None:
            is_read = call.own is not None and call.path not in writes
        else:
            is_read = bool(call.experts.reads)
        if not is_read or call.given.shape[-1] != h.shape[-1] or _is_router(call, calls):
            continue
        group = next((one for one in groups if _same_input(one[0], call) or _same_input(call, one[0])), None)
        if group is None:
            groups.append([call])
        else:
            group.append(call)
    found = []
    for group in groups:
        matrices = tuple(call.path for call in group if call.experts is None)
        experts = tuple(call.experts for call in group if call.experts is not None)
        given = min((call.given for call in group), key=len)
        if len(given) != h.shape[1]:
            continue
        raw = not any(norm.made.shape == given.shape and torch.equal(norm.made, given) for norm in norms)
        found.append((group[0].place, ReadNames(matrices, experts, raw)))
    return found


def _same_input(one: _Call, other: _Call) -> bool:
    """Whether `other` is given what `one` is, or, as some experts are, so many times it, token for token."""
    if one.given.shape == other.given.shape:
        return torch.equal(one.given, other.given)
    if one.given.shape[-1] != other.given.shape[-1] or len(other.given) % len(one.given):
        return False
    many = other.given.view(-1, *one.given.shape)
    factor = (many * one.given).sum(-1, keepdim=True) / one.given.square().sum(-1, keepdim=True)
    return other.experts is not None and close(factor.nan_to_num() * one.given, many)


def _is_router(call: _Call, calls: list[_Call]) -> bool:
    """Whether it is named so, or its outputs are no more than the experts beside it."""
    if not ROUTERS.isdisjoint(call.path.split(".")):
        return True
    for other in calls:
        if other.experts is not None:
            mixture, _, _ = other.path.rpartition(".")
            if call.path.startswith(f"{mixture}.") and call.own is not None and call.experts is None:
                return call.own.shape[-1] <= other.experts.count
    return False


def _blocks(
    reads: list[tuple[int, ReadNames]], writes: list[tuple[int, WriteNames, str | None]]
) -> tuple[BlockNames, ...]:
    """In order; a block's writes all or none through one norm."""
    events = sorted(
        [(place, 0, one) for place, one in reads] + [(place, 1, (one, norm)) for place, one, norm in writes],
        key=lambda event: event[:2],
    )
    found: list[tuple[list[ReadNames], list[tuple[WriteNames, str | None]]]] = []
    for _, kind, one in events:
        if not found or (kind == 0 and found[-1][1]):
            found.append(([], []))
        if isinstance(one, ReadNames):
            found[-1][0].append(one)
        else:
            found[-1][1].append(one)
    made = []
    for block, through in found:
        behind = {norm for _, norm in through}
        known = tuple(write for write, _ in through) if len(behind) == 1 else ()
        made.append(BlockNames(tuple(block), known, behind.pop() if known else None))
    return tuple(made)


# -- hooks ----------------------------------------------------------------------------------------------------


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
    hook = module.register_forward_pre_hook(lambda _module, args: seen.update({path: _flat(args[0])}))
    try:
        yield
    finally:
        hook.remove()


def _flat(value: Tensor) -> Tensor:
    """(tokens, ·), float32."""
    return value.detach().float().flatten(0, -2)
