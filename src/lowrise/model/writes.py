"""The last matrix of a layer's MLP, seen the same in every family: what closed-form repairs read and solve anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder

_REMEDY = "choose a preset that repairs nothing, and no --repair"


@dataclass(frozen=True)
class Write:
    """module: the matrix's own; parameter: the path of its weight in the layer; inward: weight stored as (k, d)."""

    module: nn.Module
    parameter: str
    inward: bool

    def matrix(self, weight: Tensor) -> Tensor:
        """A weight of the module → W (k, d), so that the module writes A·W for inputs A (tokens, k)."""
        return weight if self.inward else weight.T

    def weight(self, matrix: Tensor) -> Tensor:
        """W (k, d) → as the module stores it."""
        return (matrix if self.inward else matrix.T).contiguous()

    def moved(self, own: Tensor, change: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(W + change as the module stores it, the change that is left when W is rounded to `dtype`).

        own: W (k, d), float32; change: (k, d), of any precision, wherever it was solved.
        """
        weight = self.weight(own + change.float().to(own.device)).to(dtype)
        return weight, self.matrix(weight).float() - own


def mlp_write(decoder: Decoder, layer: int) -> Write:
    """How layer `layer`'s MLP writes the residual stream.

    Raises ModelError where its matrix is not known, is no matrix, or where a norm stands between it and the stream:
    there the stream is not linear in the matrix, so that no closed form solves for it.
    """
    try:
        names = decoder.names(layer)
    except ModelError as error:
        expected, found = "a decoder layer with one MLP output matrix that is known", "module names of no known family"
        raise ModelError(f"{decoder.where}: repair of family {decoder.family}", expected, found, _REMEDY) from error
    if names.output_norm is not None:
        raise ModelError(
            f"{decoder.where}: repair of family {decoder.family}",
            "an MLP that writes the residual stream itself",
            f"a norm ({names.output_norm}) between the two",
            _REMEDY,
        )
    module = decoder.layers[layer].get_submodule(names.mlp_output)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        found = f"a {type(module).__name__} without a matrix"
        raise ModelError(f"{decoder.where}: {names.mlp_output}", "a linear module", found, _REMEDY)
    return Write(module, f"{names.mlp_output}.weight", inward=not isinstance(module, nn.Linear))


def check_repair(decoder: Decoder) -> None:
    """Raises ModelError, as `mlp_write` does, for a model with a layer that no closed form repairs.

    That the stream takes what the matrix writes as it is, neither scaled nor normed, is seen from names for known
    families alone; so the first layer is run with its matrix doubled, and must write that much more.
    """
    write, *_ = [mlp_write(decoder, layer) for layer in range(len(decoder))]
    h, calls = decoder.enter(torch.zeros(1, 2, dtype=torch.long))
    weight = decoder.layers[0].get_parameter(write.parameter)
    with captured(write.module) as inputs, torch.no_grad():
        out = decoder.step(0, h, calls).float()
        doubled = decoder.step(0, h, calls, {write.parameter: 2 * weight}).float()
        expected = (inputs[0].float() @ write.matrix(weight).float()).view_as(out)
    rounding = 4 * torch.finfo(decoder.dtype).eps * float(out.norm())
    if float((doubled - out - expected).norm()) > 0.02 * float(expected.norm()) + rounding:
        raise ModelError(
            f"{decoder.where}: repair of family {decoder.family}",
            "an MLP whose output is added to the stream as it is",
            "one that is scaled or normed first",
            _REMEDY,
        )


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, the inputs of `module`'s calls are appended to the list that it yields."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()
