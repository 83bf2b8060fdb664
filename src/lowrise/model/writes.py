"""The last matrix of a layer's MLP, seen the same in every family: what closed-form repairs read and solve anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder


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


def mlp_write(decoder: Decoder, layer: int) -> Write:
    """How layer `layer`'s MLP writes the residual stream.

    Raises ModelError where its matrix is not known, is no matrix, or where a norm stands between it and the stream:
    there the stream is not linear in the matrix, so that no closed form solves for it.
    """
    names = decoder.names(layer)
    if names.output_norm is not None:
        raise ModelError(
            f"{decoder.where}: repair of family {decoder.family}",
            "an MLP that writes the residual stream itself",
            f"a norm ({names.output_norm}) between the two",
            "say --repair none",
        )
    module = decoder.layers[layer].get_submodule(names.mlp_output)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        found = f"a {type(module).__name__} without a matrix"
        raise ModelError(f"{decoder.where}: {names.mlp_output}", "a linear module", found, "say --repair none")
    return Write(module, f"{names.mlp_output}.weight", inward=not isinstance(module, nn.Linear))


def check_repair(decoder: Decoder) -> None:
    """Raises ModelError, as `mlp_write` does, for a model with a layer that no closed form repairs."""
    for layer in range(len(decoder)):
        mlp_write(decoder, layer)


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, the inputs of `module`'s calls are appended to the list that it yields."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()
