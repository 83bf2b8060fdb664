"""GGUF files, read and written: fields by their own bytes, tensors one at a time (ggml's docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from lowrise.errors import ModelError
from lowrise.headers import GgufHeader, gguf_header

Bytes = NDArray[np.uint8]
Numbers = NDArray[Any]


@dataclass(frozen=True)
class GgufFile:
    """A file whose header was read within its bounds; tensors are read when they are asked for."""

    path: Path
    header: GgufHeader

    @cached_property
    def _mapped(self) -> Bytes:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    @property
    def architecture(self) -> str:
        """Raises ModelError for a file that names none."""
        found = self.header.metadata.get("general.architecture")
        if not isinstance(found, str):
            raise ModelError(self.path, "a name as general.architecture", repr(found), "fetch the file again")
        return found

    @property
    def layers(self) -> int:
        """Raises ModelError for a file that does not say how many there are."""
        key = f"{self.architecture}.block_count"
        found = self.header.metadata.get(key)
        if type(found) is not int or found < 1:
            raise ModelError(self.path, f"a number of layers as {key}", repr(found), "fetch the file again")
        return found

    def field(self, key: str) -> tuple[bytes, bytes]:
        """The bytes of a field's key, and those of its type and value."""
        begin, middle, end = self.header.places[key]
        return self._mapped[begin:middle].tobytes(), self._mapped[middle:end].tobytes()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, outermost first, as numpy has it."""
        return tuple(reversed(self.header.tensors[name].shape))

    def raw(self, name: str) -> Bytes:
        """The bytes of a tensor, (..., bytes of a row)."""
        tensor = self.header.tensors[name]
        begin = self.header.start + tensor.offset
        shape = gguf.quant_shape_to_byte_shape(self.shape(name), kind_of(tensor.kind))
        return self._mapped[begin : begin + tensor.size].reshape(shape)

    def numbers(self, name: str) -> Numbers:
        """A tensor in float32, dequantised as transformers does. Raises ModelError where its format has no reader."""
        kind = self.header.tensors[name].kind
        try:
            return np.asarray(gguf.dequantize(self.raw(name), kind_of(kind)))
        except NotImplementedError as error:
            found = f"{kind} in {name}"
            raise ModelError(self.path, "number formats that can be read", found, "take another file") from error


@dataclass(frozen=True)
class Piece:
    """One tensor to be written. kind: GGML's name of its format. shape: as numpy has it. read: its bytes, at last."""

    name: str
    kind: str
    shape: tuple[int, ...]
    read: Callable[[], Bytes]


def open_gguf(path: Path) -> GgufFile:
    """Raises ModelError for a file that is not whole."""
    return GgufFile(path, gguf_header(path))


def kind_of(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def encoded(numbers: Numbers, kind: str) -> Bytes:
    """float32 → the bytes of a tensor in that format, (..., bytes of a row)."""
    made = np.ascontiguousarray(gguf.quantize(np.ascontiguousarray(numbers, dtype=np.float32), kind_of(kind)))
    return made.view(np.uint8)


class _Writer(gguf.GGUFWriter):  # type: ignore[misc]
    """Fields go to the file by their bytes: the package knows no empty list, and no list of lists."""

    def __init__(self, path: Path, fields: Mapping[str, bytes], alignment: int) -> None:
        super().__init__(path, arch="")
        self.kv_data = [dict.fromkeys(fields)]
        self._fields = fields
        self.data_alignment = alignment

    def write_kv_data_to_file(self) -> None:
        for content in self._fields.values():
            self.fout[0].write(content)
        self.state = gguf.gguf_writer.WriterState.KV_DATA


def write_gguf(path: Path, fields: Mapping[str, bytes], pieces: Iterable[Piece], alignment: int) -> None:
    """fields: key → all bytes of the field, key and type included, in their order. Tensors are held one at a time."""
    pieces = list(pieces)
    writer = _Writer(path, fields, alignment)
    for piece in pieces:
        kind = kind_of(piece.kind)
        block, width = gguf.GGML_QUANT_SIZES[kind]
        size = int(np.prod(piece.shape, dtype=np.int64)) // block * width
        writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), size, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for piece in pieces:
            writer.write_tensor_data(np.ascontiguousarray(piece.read()))
    finally:
        writer.close()
