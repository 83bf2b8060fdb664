"""How a layer reads and writes the stream, found by running it: for layers whose matrices no row names.

A linear module is a write if, when it makes so many times as much, the layer gives so many times as much of just that
to the stream. Later writes are silent meanwhile, for they are given what earlier ones make. What a norm stands behind
is told by the norm's input. Matrices that are given the same input are read together; a block ends where something is
read after something was written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrise.model.blocks import BlockNames, ReadNames, WriteNames
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.matrices import close
from lowrise.model.norms import Norm
from lowrise.model.tracing import TIMES, Call, Trial, calls_in, is_norm

ROUTERS = frozenset({"router"})  # in the words of families


@dataclass(frozen=True)
class _Written:
    """factor: (tokens,), by which what a call makes is multiplied before the stream, or `norm`, is given it; behind: by
    which what the norm makes is.
    """

    call: Call
    factor: Tensor
    norm: str | None = None
    behind: float = 1.0


# A write's place, and the norm behind it with the factor that comes then.
_Placed = tuple[int, WriteNames, tuple[str | None, float]]


@torch.no_grad()
def find_blocks(layer: Layer, h: Tensor, arguments: LayerArguments) -> tuple[BlockNames, ...]:
    """The blocks of `layer`, in the order in which they read; none where nothing is found.

    h: (1, tokens, …, hidden), what enters it. What does not write as said above is left out; where that, or anything
    else, comes behind the last block that is found, an empty one stands for it.
    """
    calls = calls_in(layer, h, arguments)
    norms = [call for call in calls if is_norm(layer.module.get_submodule(call.path))]
    trial = Trial(layer, h, arguments)
    written: list[_Written] = []
    for call in sorted(calls, key=lambda call: -call.place):
        if call.own is not None and call.own.shape[-1] == h.shape[-1]:
            found = _written(trial, call, [norm for norm in norms if norm.place > call.place])
            if found is not None:
                written.append(found)
                trial.silent.add(call.path)
    written = [one for one in written if one.norm is None or _is_alone(trial, one.norm, written, norms)]
    skip_scale = _skip_scale(trial, written)
    trial.silent.clear()
    writes = _writes(layer, calls, written)
    blocks = tuple(replace(block, skip_scale=skip_scale) for block in _blocks(_reads(calls, written, norms, h), writes))
    last = {write.module for block in blocks[-1:] for write in block.writes}
    if all(_is_last(trial, one, calls) for one in written if one.call.path in last):
        return blocks
    return (*blocks, BlockNames((), ()))


def is_read_again(layer: Layer, h: Tensor, arguments: LayerArguments, path: str) -> bool:
    """Whether a matrix of the layer is given something else when the linear module at `path` makes more.

    h, arguments: as of `find_blocks`.
    """
    calls = calls_in(layer, h, arguments)
    one = next((call for call in calls if call.path == path), None)
    if one is None or one.own is None:
        return False
    later = [call for call in calls if call.place > one.place and call.own is not None]
    return _are_given_else(Trial(layer, h, arguments), one, later)


# -- what is written ------------------------------------------------------------------------------------------


def _written(trial: Trial, call: Call, norms: list[Call]) -> _Written | None:
    """How what `call` makes comes to the stream: as it is, times a factor, or through one of `norms`, of those behind
    it. A norm that scales all alike gives every token a factor of its own, as a gate does: it is asked first then.
    """
    assert call.own is not None
    more = (TIMES - 1) * call.own
    by_token = more.view(-1, trial.tokens, more.shape[-1]).sum(0)
    watch = [norm.path for norm in norms if norm.given.shape == by_token.shape]
    (out, before), (louder, behind) = trial.run(watch=watch), trial.run(call.path, more, watch)
    direct = _factor(louder - out, by_token)
    if direct is not None and _constant(direct) is not None:
        return _Written(call, direct)
    for path in watch:
        factor = _factor(behind[path] - before[path], by_token)
        if factor is not None:
            norm = _behind(trial, path, before[path], out)
            if norm is not None:
                return _Written(call, factor, path, norm)
            break
    return None if direct is None else _Written(call, direct)


def _factor(more: Tensor, made: Tensor) -> Tensor | None:
    """(tokens,): by which `made` (tokens, d) is multiplied in `more`, nan where nothing is made; None where that is
    something else.
    """
    if more.shape != made.shape:  # a stream that is several
        return None
    factor = (more * made).sum(-1) / made.square().sum(-1)
    return factor if close(factor.nan_to_num().unsqueeze(-1) * made, more) else None


def _behind(trial: Trial, path: str, y: Tensor, out: Tensor) -> float | None:
    """By which the stream takes what the norm makes, v·y/rms(y) of what it is given; None where either is something
    else. out: what leaves the layer.
    """
    module = trial.layer.module.get_submodule(path)
    if [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    norm = Norm(module, f"{path}.weight")
    weight = trial.layer.parameter(norm.parameter)
    made, scaled = norm.of(y, weight), y * norm.scale(weight)
    length = (made.norm(dim=-1) / scaled.norm(dim=-1)).nan_to_num().unsqueeze(-1)
    louder, _ = trial.run(path)
    factor = _factor(louder - out, (TIMES - 1) * made) if close(length * scaled, made) else None
    constant = None if factor is None else _constant(factor)
    return None if constant is None else _as_written(trial.layer, constant)


def _skip_scale(trial: Trial, written: list[_Written]) -> float | None:
    """By which what enters the layer is multiplied on its way to the end of it."""
    trial.silent = {one.call.path for one in written}
    out, _ = trial.run()
    factor = _factor(out, trial.h.flatten(0, -2).float())
    constant = None if factor is None else _constant(factor)
    return None if constant is None else _as_written(trial.layer, constant)


def _is_alone(trial: Trial, norm: str, written: list[_Written], norms: list[Call]) -> bool:
    """Whether the norm is given nothing but what is written through it."""
    trial.silent = {one.call.path for one in written if one.norm == norm}
    _, seen = trial.run(watch=[norm])
    (usual,) = (call.given for call in norms if call.path == norm)
    return float(seen[norm].norm()) < 0.01 * float(usual.norm())


def _is_last(trial: Trial, one: _Written, calls: list[Call]) -> bool:
    """Whether no module that is called later is given anything else when this one makes more: what such a module then
    makes may be too little to be seen beside that.
    """
    later = [call for call in calls if call.place > one.call.place and call.path != one.norm]
    return not _are_given_else(trial, one.call, later)


def _are_given_else(trial: Trial, one: Call, later: list[Call]) -> bool:
    assert one.own is not None
    _, seen = trial.run(one.path, (TIMES - 1) * one.own, [call.path for call in later])
    return not all(torch.allclose(seen[call.path], call.given, rtol=1e-3) for call in later if call.path in seen)


def _writes(layer: Layer, calls: list[Call], written: list[_Written]) -> list[_Placed]:
    """Those that are multiplied by what is known."""
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
            write = WriteNames(one.call.path, exact, gate, one.call.experts)
            found.append((one.call.place, write, (one.norm, one.behind)))
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


def _reads(calls: list[Call], written: list[_Written], norms: list[Call], h: Tensor) -> list[tuple[int, ReadNames]]:
    """(place, what is read together), routers left out. h: what enters the layer."""
    writes = {one.call.path for one in written}
    groups: list[list[Call]] = []
    for call in calls:
        alone = call.experts is None and call.own is not None and call.path not in writes
        is_read = alone or (call.experts is not None and bool(call.experts.reads))
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


def _same_input(one: Call, other: Call) -> bool:
    """Whether `other` is given what `one` is, or, as some experts are, so many times it, token for token."""
    if one.given.shape == other.given.shape:
        return torch.equal(one.given, other.given)
    if one.given.shape[-1] != other.given.shape[-1] or len(other.given) % len(one.given):
        return False
    many = other.given.view(-1, *one.given.shape)
    factor = (many * one.given).sum(-1, keepdim=True) / one.given.square().sum(-1, keepdim=True)
    return other.experts is not None and close(factor.nan_to_num() * one.given, many)


def _is_router(call: Call, calls: list[Call]) -> bool:
    """Whether it is named so, or its outputs are no more than the experts beside it."""
    if not ROUTERS.isdisjoint(call.path.split(".")):
        return True
    for other in calls:
        if other.experts is not None:
            mixture, _, _ = other.path.rpartition(".")
            if call.path.startswith(f"{mixture}.") and call.own is not None and call.experts is None:
                return call.own.shape[-1] <= other.experts.count
    return False


def _blocks(reads: list[tuple[int, ReadNames]], writes: list[_Placed]) -> tuple[BlockNames, ...]:
    """In order; a block's writes all or none through one norm."""
    events = sorted(
        [(place, 0, one) for place, one in reads] + [(place, 1, (one, norm)) for place, one, norm in writes],
        key=lambda event: event[:2],
    )
    found: list[tuple[list[ReadNames], list[tuple[WriteNames, tuple[str | None, float]]]]] = []
    for _, kind, one in events:
        if not found or (kind == 0 and found[-1][1]):
            found.append(([], []))
        if isinstance(one, ReadNames):
            found[-1][0].append(one)
        else:
            found[-1][1].append(one)
    made = []
    for block, through in found:
        norms = {norm for _, norm in through}
        norm, behind = norms.pop() if len(norms) == 1 else (None, 1.0)
        known = tuple(write for write, _ in through) if not norms else ()
        made.append(BlockNames(tuple(block), known, norm, behind))
    return tuple(made)
