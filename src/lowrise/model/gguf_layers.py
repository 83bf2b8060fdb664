"""A GGUF file that is read a layer at a time, for a model whose layers lie on disk.

transformers unpacks the whole file before it loads any of it. Here its own conversion is called for one layer's tensors
after the other, when the first of them is asked for: the reader that it is given, which `gguf_once` keeps, shows it no
others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quant_shape_from_byte_shape
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from lowrise.model.wrappers import auto_class


def reads_by_itself(file: Path) -> bool:
    """Whether transformers reads this architecture a tensor at a time."""
    with suppress(ImportError):
        from transformers.integrations.gguf.utils import is_gguf_arch_supported

        reader = gguf.GGUFReader(str(file))
        return bool(is_gguf_arch_supported(reader.get_field("general.architecture").contents()))
    return False


def opened(file: Path, how: dict[str, Any]) -> tuple[Any, Any]:
    """(model, what the loader says of it), unpacked a layer at a time. how: of `from_pretrained`."""
    config, dtype = how["config"], how["dtype"]
    with torch.device("meta"):
        empty = auto_class(config).from_config(config, dtype=dtype)
    model, info = type(empty).from_pretrained(None, state_dict=tensors_later(file, empty, dtype), **how)
    model.name_or_path = model.config.name_or_path = str(file.parent)
    return model, info


def tensors_later(file: Path, model: Any, dtype: torch.dtype) -> dict[str, Later]:
    """By the names that `model`, which takes no memory, has for them. To be called within `read_once`."""
    pieces = _Pieces(str(file), model, dtype)
    return {name: Later(pieces, piece, name) for piece in pieces.numbers for name in pieces.names(piece)}


class Later:
    """A tensor that is unpacked when it is looked into, as `tensor[...]`."""

    def __init__(self, pieces: _Pieces, piece: str, name: str) -> None:
        self._pieces, self._piece, self._name = pieces, piece, name

    def __getitem__(self, _all: Any) -> Tensor:
        return self._pieces.tensors(self._piece)[self._name]


class _Pieces:
    """The file's tensors, layer by layer, those outside of layers one by one. In memory is the piece asked for last."""

    def __init__(self, file: str, model: Any, dtype: torch.dtype) -> None:
        self._how = {"return_tensors": True, "model_to_load": model, "torch_dtype": dtype}
        self._file, self._reader = file, gguf.GGUFReader(file)
        self._of: dict[str, list[Any]] = {}
        for tensor in self._reader.tensors:
            layer = re.match(r"blk\.(\d+)\.", tensor.name)
            self._of.setdefault(layer[1] if layer else tensor.name, []).append(tensor)
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    @property
    def numbers(self) -> list[str]:
        return [*self._of]

    def names(self, piece: str) -> list[str]:
        with _unpacked_to_nothing():
            return [*self._converted(piece)]

    def tensors(self, piece: str) -> dict[str, Tensor]:
        if self._last[0] != piece:
            self._last = ("", {})
            self._last = (piece, self._converted(piece))
        return self._last[1]

    def _converted(self, piece: str) -> dict[str, Tensor]:
        every = self._reader.tensors
        self._reader.tensors = self._of[piece]
        try:
            found: dict[str, Tensor] = load_gguf_checkpoint(self._file, **self._how)["tensors"]
            return found
        finally:
            self._reader.tensors = every


@contextmanager
def _unpacked_to_nothing() -> Iterator[None]:
    """For a while, numbers are not looked at, only what becomes of their names."""
    before = gguf.dequantize

    def blank(data: Any, kind: Any) -> Any:
        plain = kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        return np.zeros(data.shape if plain else quant_shape_from_byte_shape(data.shape, kind), dtype=np.float32)

    gguf.dequantize = blank
    try:
        yield
    finally:
        gguf.dequantize = before
