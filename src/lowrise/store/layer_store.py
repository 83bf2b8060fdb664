"""What the rest of lowrise asks of the place where layers live. As it stands here: in memory, as torch keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn


class LayerStore:
    """Parameters are ordinary tensors, wherever they live: every pass, and every edit in place, works on them."""

    layer_by_layer = False
    """Whether a pass reads each layer once for all batches, with states on disk between, or each batch by itself."""

    folder: Path | None = None
    """Where states lie between the layers of a pass; None: where temporary files do."""

    @property
    def size(self) -> int:
        """Bytes on disk of what it keeps there."""
        return 0

    def placing(self, _files: Iterable[Path]) -> AbstractContextManager[None]:
        """Around the loading of a model: its parameters come to where they live as they are made, one by one.

        files: that they are read from.
        """
        return nullcontext()

    def watch(self, model: nn.Module, layers: nn.ModuleList) -> None:
        """From now on these are the model's layers, and what lies around them is the rest of it."""

    def keep(self, value: Tensor) -> Tensor:
        """The same numbers, where layers live; for what is as large as a layer and stays for long."""
        return value

    def recast(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """A parameter's numbers in another format, where they live; `value` is of no use after."""
        return value.to(dtype)

    def at_most(self, wanted: int) -> int:
        """How many of so many bytes may be taken in memory beside layers, for what can lie on disk as well."""
        return wanted

    def relieve(self, wanted: int = 0) -> None:
        """Give back what memory can be given back now, where `wanted` bytes will be looked at next."""

    def check_room(self, wanted: int, what: str) -> None:
        """Raises RecipeError where a bound leaves no room for `wanted` bytes, which `what` takes beside layers."""

    def close(self) -> None:
        """The model is given up: what is kept of it on disk goes, once no tensor looks into it."""

    def anew(self) -> LayerStore:
        """A store of the same kind and bound, for another model."""
        return LayerStore()
