"""Headers of weight files, read within bounds: names, types, shapes and places of tensors, never the tensors.

A loader that trusts a header reads past the end, asks for terabytes, or never comes back. What is refused here never
reaches one.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lowrise.errors import InputError, ModelError
from lowrise.reading import MOST_INTEGER, UnreadableError, opened, parse_json, refusing

MOST_HEADER = 100_000_000  # bytes: the safetensors library refuses more
MOST_TENSORS = 1_000_000
MOST_STRING = 16 << 20  # bytes of one text in GGUF metadata: chat templates and licences
MOST_DIMENSIONS = 8
_KEPT_ITEMS = 4096  # of an array of GGUF metadata; longer ones (vocabularies) are walked over and left out
_REMEDY = "fetch it again"

# Bits of one number (safetensors format; those below a byte are packed).
SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def safetensors_header(
    file: Path, raising: type[InputError] = ModelError, remedy: str = _REMEDY
) -> dict[str, dict[str, Any]]:
    """Tensor name → {"dtype", "shape", "data_offsets"}; metadata are left out.

    Raises `raising` unless the file is whole: offsets follow each other to its very end, and each tensor has the bytes
    that its dtype and shape take.
    """
    expected = "a whole safetensors file"
    with refusing(file, raising, expected, remedy), opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise UnreadableError(f"{size} bytes, cut short or not safetensors")
        if length > MOST_HEADER:
            raise UnreadableError(f"a header of {length:,} bytes")
        text = stream.read(length)
    header = parse_json(text, file, raising, expected, remedy)
    with refusing(file, raising, expected, remedy):
        if not isinstance(header, dict):
            raise UnreadableError("a header that is no mapping")
        header.pop("__metadata__", None)
        if len(header) > MOST_TENSORS:
            raise UnreadableError(f"{len(header):,} tensors")
        end = _check_tensors(header)
        if end + 8 + length != size:
            raise UnreadableError(f"{size} bytes where {end + 8 + length} belong")
    return header


def _check_tensors(header: dict[str, Any]) -> int:
    """The end of the last tensor, counted from the end of the header."""
    end = 0
    for name, entry in header.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise UnreadableError(f"a header that does not parse: nothing usable about {name!r}")
    for name, entry in sorted(header.items(), key=lambda pair: _offsets(*pair)):
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_BITS:
            raise UnreadableError(f"the dtype {entry['dtype']!r} of {name!r}, which is none")
        begin, stop = _offsets(name, entry)
        if begin != end:
            raise UnreadableError(f"{name!r} at byte {begin} where {end} belongs")
        if math.prod(_shape(name, entry["shape"])) * SAFETENSORS_BITS[entry["dtype"]] != (stop - begin) * 8:
            raise UnreadableError(f"{stop - begin} bytes for {name!r}, {entry['dtype']} of shape {entry['shape']}")
        end = stop
    return end


def _offsets(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    pair = entry["data_offsets"]
    if not (isinstance(pair, list) and len(pair) == 2 and all(type(item) is int for item in pair)):
        raise UnreadableError(f"a header that does not parse: no two offsets of {name!r}")
    if not 0 <= pair[0] <= pair[1]:
        raise UnreadableError(f"the offsets {pair} of {name!r}")
    return pair[0], pair[1]


def _shape(name: str, shape: Any) -> list[int]:
    if not (isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(type(item) is int for item in shape)):
        raise UnreadableError(f"a header that does not parse: no shape of {name!r}")
    if any(item < 0 for item in shape) or math.prod(shape) > MOST_INTEGER:
        raise UnreadableError(f"the shape {shape} of {name!r}")
    return shape


@dataclass(frozen=True)
class GgufTensor:
    """kind: GGML's name of the number format, such as F32, BF16 or Q4_K. shape: as GGUF has it, innermost first."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int
    """Bytes that it takes."""


@dataclass(frozen=True)
class GgufHeader:
    """Metadata without long arrays, and the tensors by name.

    places: of each field in the file, (first byte of its key, first of its type, first behind it). start: the byte that
    offsets of tensors count from.
    """

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    places: dict[str, tuple[int, int, int]]
    start: int
    alignment: int


GGUF_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, GGUF_ARRAY = 8, 9


def gguf_header(file: Path) -> GgufHeader:
    """The header of a GGUF file (ggml's docs/gguf.md, versions 2 and 3).

    Raises ModelError unless every count, text and tensor lies within the file.
    """
    with refusing(file, ModelError, "a GGUF file that is whole", _REMEDY), opened(file) as stream:
        return _Gguf(stream).header()


class _Gguf:
    """One walk over a header, from its first byte to its last."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = os.fstat(stream.fileno()).st_size

    def header(self) -> GgufHeader:
        if self.stream.read(4) != b"GGUF":
            raise UnreadableError("one that does not begin as GGUF")
        version = self.scalar("<I")
        if version not in (2, 3):
            raise UnreadableError("big-endian numbers" if version and version & 0xFFFF == 0 else f"version {version}")
        tensors, keys = self.scalar("<Q"), self.scalar("<Q")
        if tensors > min(MOST_TENSORS, self.size // 24) or keys > min(MOST_TENSORS, self.size // 13):
            raise UnreadableError(f"counts of {tensors} tensors and {keys} keys in {self.size} bytes")
        metadata: dict[str, Any] = {}
        places: dict[str, tuple[int, int, int]] = {}
        for _ in range(keys):
            begin = self.stream.tell()
            key = self.text("a key")
            if key in metadata:
                raise UnreadableError(f"the key {key!r} twice")
            middle = self.stream.tell()
            metadata[key] = self.value(self.scalar("<I"), depth=0)
            places[key] = begin, middle, self.stream.tell()
        found: dict[str, GgufTensor] = {}
        for _ in range(tensors):
            self.tensor(found)
        alignment = metadata.get("general.alignment", 32)
        return GgufHeader(metadata, found, places, self.start_of_tensors(alignment, found), alignment)

    def scalar(self, form: str) -> Any:
        content = self.stream.read(struct.calcsize(form))
        if len(content) < struct.calcsize(form):
            raise UnreadableError(f"{self.size} bytes, cut short")
        return struct.unpack(form, content)[0]

    def text(self, what: str) -> str:
        length = self.scalar("<Q")
        if length > min(MOST_STRING, self.size - self.stream.tell()):
            raise UnreadableError(f"{what} of {length} bytes, which is longer than it may be")
        content = self.stream.read(length)
        # vocabularies hold single bytes too, which are no characters; names that matter are plain
        return content.decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self.text("a text")
        if kind != GGUF_ARRAY:
            if kind not in GGUF_SCALARS:
                raise UnreadableError(f"a value of the unknown kind {kind}")
            return self.scalar(GGUF_SCALARS[kind])
        if depth > 2:
            raise UnreadableError("lists nested too deep")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        width = struct.calcsize(GGUF_SCALARS[inner]) if inner in GGUF_SCALARS else 8
        if count > (self.size - self.stream.tell()) // width:
            raise UnreadableError(f"a list of {count} items in {self.size} bytes")
        if inner in GGUF_SCALARS and count > _KEPT_ITEMS:
            self.stream.seek(count * width, os.SEEK_CUR)
            return None
        items = (self.value(inner, depth + 1) for _ in range(count))
        if count <= _KEPT_ITEMS:
            return list(items)
        for _ in items:
            pass
        return None

    def tensor(self, found: dict[str, GgufTensor]) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.text("a tensor's name")
        if name in found:
            raise UnreadableError(f"the tensor {name!r} twice")
        dimensions = self.scalar("<I")
        if dimensions > MOST_DIMENSIONS:
            raise UnreadableError(f"{dimensions} dimensions of {name!r}")
        shape = tuple(self.scalar("<Q") for _ in range(dimensions))
        number = self.scalar("<I")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise UnreadableError(f"the unknown number format {number} of {name!r}") from error
        block, width = GGML_QUANT_SIZES[kind]
        numbers = math.prod(shape)
        if numbers > MOST_INTEGER or numbers % block or (shape and shape[0] % block):
            raise UnreadableError(f"the shape {list(shape)} of {name!r} in {kind.name}")
        found[name] = GgufTensor(kind.name, shape, self.scalar("<Q"), numbers // block * width)

    def start_of_tensors(self, alignment: Any, tensors: dict[str, GgufTensor]) -> int:
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise UnreadableError(f"the alignment {alignment!r}")
        start = -(-self.stream.tell() // alignment) * alignment
        for name, tensor in tensors.items():
            if tensor.offset % alignment:
                raise UnreadableError(f"{name!r} at byte {tensor.offset}, which is not aligned to {alignment}")
            end = start + tensor.offset + tensor.size
            if end > self.size:
                raise UnreadableError(f"{self.size} bytes, cut short: {name!r} ends at {end}")
        return start
