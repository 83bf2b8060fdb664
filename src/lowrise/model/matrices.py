"""The matrices that read and write the residual stream, seen alike in every family: what closed-form repairs solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.model.batching import heard, joined_rows


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


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding; never where one is not a number, or both are nothing."""
    return bool(expected.any()) and float((found - expected).norm()) < 0.05 * float(expected.norm())


@contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, the inputs of `module`'s calls are appended to the list that it yields."""
    with heard(joined_rows) as seen:
        hook = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            yield seen
        finally:
            hook.remove()


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What `module` is given while `run` runs, which is left at that point."""

    def leave(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise ReachedError(args[0])

    hook = module.register_forward_pre_hook(leave)
    try:
        run()
    except ReachedError as reached:
        return reached.given
    finally:
        hook.remove()
    raise AssertionError(f"{type(module).__name__} was not reached")


class ReachedError(Exception):
    """A module was reached, and what it is `given` is known."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given
