"""The matrices that read and write the residual stream, seen alike in every family: what closed-form repairs solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.families import LayerNames

TIMES = 256  # so much larger a matrix or a norm is tried; within what float16 can hold
_REMEDY = "choose a preset that repairs nothing, such as streamline-none, and no --repair"


@dataclass(frozen=True)
class Matrix:
    """module: the matrix's own; parameter: the path of its weight in the layer; input_first: weight stored as (k, d).

    factor: what the layer multiplies by, of what the module makes.
    """

    module: nn.Module
    parameter: str
    input_first: bool
    factor: float = 1.0

    def matrix(self, weight: Tensor) -> Tensor:
        """A weight of the module → W (k, d), so that the layer makes A·W of the module's inputs A (tokens, k).

        In the weight's own precision, but times a factor in float32.
        """
        matrix = weight if self.input_first else weight.T
        return matrix if self.factor == 1 else self.factor * matrix.float()

    def weight(self, matrix: Tensor) -> Tensor:
        """W (k, d) → as the module stores it."""
        own = matrix if self.factor == 1 else matrix / self.factor
        return (own if self.input_first else own.T).contiguous()

    def moved(self, own: Tensor, change: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(W + change as the module stores it, the change that is left when W is rounded to `dtype`).

        own: W (k, d), float32; change: (k, d), of any precision, wherever it was solved.
        """
        weight = self.weight(own + change.float().to(own.device)).to(dtype)
        return weight, self.matrix(weight).float() - own


def mlp_write(decoder: Decoder, layer: int) -> Matrix:
    """How layer `layer`'s MLP writes the residual stream.

    Raises ModelError where its matrix is not known, is no matrix, or where a norm stands between it and the stream:
    there the stream is not linear in the matrix, so that no closed form solves for it.
    """
    names = _names(decoder, layer)
    if names.mlp_norm is not None:
        raise ModelError(
            f"{decoder.where}: repair of family {decoder.family}",
            "an MLP that writes the residual stream itself",
            f"a norm ({names.mlp_norm}) between the two",
            _REMEDY,
        )
    return mlp_output(decoder, layer)


def mlp_output(decoder: Decoder, layer: int) -> Matrix:
    """Its MLP's last matrix, with the factor but without the norm that may stand between it and the stream."""
    names = _names(decoder, layer)
    return _matrix(decoder, layer, names.mlp_output, names.factor)


def attention_write(decoder: Decoder, layer: int) -> Matrix:
    """The matrix that its attention writes with, likewise."""
    names = _names(decoder, layer)
    return _matrix(decoder, layer, names.attention_output, names.factor)


def reads(decoder: Decoder, layer: int) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
    """The first matrices of its attention and of its MLP; those of one tuple are all given the same input."""
    names = _names(decoder, layer)
    attention, mlp = (
        tuple(_matrix(decoder, layer, name) for name in group) for group in (names.attention_inputs, names.mlp_inputs)
    )
    return attention, mlp


def reads_raw(decoder: Decoder, layer: int) -> bool:
    """Whether its first matrices are given the stream as it is, with no norm between."""
    return _names(decoder, layer).raw


def _names(decoder: Decoder, layer: int) -> LayerNames:
    try:
        return decoder.names(layer)
    except ModelError as error:
        expected, found = "a decoder layer whose matrices are known", "module names of no known family"
        raise ModelError(f"{decoder.where}: repair of family {decoder.family}", expected, found, _REMEDY) from error


def _matrix(decoder: Decoder, layer: int, name: str, factor: str | None = None) -> Matrix:
    """factor: the layer's attribute that holds it."""
    module = dict(decoder.layers[layer].named_modules()).get(name)
    weight = getattr(module, "weight", None)
    if module is None or not isinstance(weight, Tensor) or weight.dim() != 2:
        found = "none of that name" if module is None else f"a {type(module).__name__} without a matrix"
        raise ModelError(f"{decoder.where}: {name}", "a linear module", found, _REMEDY)
    times = 1.0 if factor is None else float(getattr(decoder.layers[layer], factor))
    return Matrix(module, f"{name}.weight", input_first=not isinstance(module, nn.Linear), factor=times)


def check_writes(decoder: Decoder) -> None:
    """Raises ModelError, as `mlp_write` does, unless every layer's MLP writes to the stream what its matrix makes.

    That the stream takes it as it is, neither scaled nor normed, is seen from names for known families alone; so the
    first layer is run with its matrix so many times itself that rounding of the stream is nothing beside what it
    writes, and must write that much more.
    """
    write, *_ = [mlp_write(decoder, layer) for layer in range(len(decoder))]
    h, calls = decoder.embed(some_tokens(decoder))
    weight = decoder.layers[0].get_parameter(write.parameter)
    with captured(write.module) as inputs, torch.no_grad():
        out = decoder.step(0, h, calls).float()
        more = decoder.step(0, h, calls, {write.parameter: TIMES * weight}).float() - out
        expected = (TIMES - 1) * (inputs[0].float() @ write.matrix(weight).float()).view_as(out)
    if not float((more - expected).norm()) < 0.05 * float(expected.norm()):  # nor if one is not a number
        raise ModelError(
            f"{decoder.where}: repair of family {decoder.family}",
            "an MLP whose output is added to the stream as it is",
            "one that is scaled or normed first",
            _REMEDY,
        )


def some_tokens(decoder: Decoder) -> Tensor:
    """(1, 8): ids to try a layer with. Several, for one alone may be padding, whose embedding is 0."""
    return torch.arange(8).clamp(max=decoder.model.get_input_embeddings().weight.shape[0] - 1).unsqueeze(0)


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, the inputs of `module`'s calls are appended to the list that it yields."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What `module` is given while `run` runs, which is left at that point."""

    def leave(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _ReachedError(args[0])

    hook = module.register_forward_pre_hook(leave)
    try:
        run()
    except _ReachedError as reached:
        return reached.given
    finally:
        hook.remove()
    raise AssertionError(f"{type(module).__name__} was not reached")


class _ReachedError(Exception):
    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given
