"""A folder that was cut from a GGUF file, as a GGUF file again.

Blocks of layers that went are left out, the others numbered anew. What the model holds as transformers reads it from
the base file is copied byte by byte, quantised tensors too; the rest is written in a format of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from lowrise.engines.gguf_checks import Type
from lowrise.engines.gguf_fields import changed_fields, cut_fields
from lowrise.engines.gguf_file import Bytes, GgufFile, Numbers, Piece, encoded, write_gguf
from lowrise.engines.gguf_origin import Origin
from lowrise.engines.gguf_tensors import Held, TensorMap
from lowrise.engines.gguf_types import FILE_TYPES, check_range, kind_for
from lowrise.errors import ModelError
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter

_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Written:
    """One tensor of the new file. before: its name in the base. kind: GGML's name of its format.

    held: of one that changed, where its numbers lie in the model. copied: whether its bytes are the base's own.
    """

    name: str
    before: str
    kind: str
    shape: tuple[int, ...]
    held: Held | None
    copied: bool


@dataclass(frozen=True)
class Content:
    """All that a new file is to hold, before anything of it is written."""

    origin: Origin
    fields: dict[str, bytes]
    tensors: list[Written]
    map: TensorMap

    @property
    def changed_fields(self) -> list[str]:
        return changed_fields(self.origin.base, self.fields)

    def numbers(self, tensor: Written) -> Numbers:
        """Of one that is not copied, in float32, as they are before they are rounded to its format."""
        if tensor.held is None:
            return self.origin.base.numbers(tensor.before)
        return self.map.written(tensor.held, tensor.shape)

    def read(self, tensor: Written) -> Bytes:
        if tensor.copied:
            return self.origin.base.raw(tensor.before)
        numbers = self.numbers(tensor)
        check_range(tensor.name, numbers, tensor.kind)
        return encoded(numbers, tensor.kind)

    def write(self, path: Path) -> None:
        pieces = [Piece(one.name, one.kind, one.shape, partial(self.read, one)) for one in self.tensors]
        write_gguf(path, self.fields, pieces, self.origin.base.header.alignment)


def content(opened: OpenModel, origin: Origin, wanted: Type, everything: bool, progress: Reporter) -> Content:
    """opened: the folder, as it is to be written. wanted: the format of matrices that changed, or with `everything`,
    which takes one that is named, of all of them.

    Raises ModelError for a parameter that the base file has no tensor for, a tensor whose reading cannot be turned
    round, and metadata that cannot describe the layers that are kept.
    """
    base, kept, depth = origin.base, origin.kept, len(opened.decoder)
    if depth != len(kept):
        found = f"{depth} layers in it"
        raise ModelError(opened.record.source, f"{len(kept)} layers, as its plan says", found, "use --converter")
    fields = cut_fields(base, kept, FILE_TYPES[wanted] if everything and wanted != "auto" else None)
    mapped = TensorMap(opened.model, base.architecture, base.path)
    names = list(_kept_names(base, kept))
    covered: dict[str, int] = {}
    tensors = []
    with progress.bar("tensors", len(names)) as bar:
        for name, before in names:
            tensors.append(_tensor(opened, base, mapped, name, before, wanted, everything, covered))
            bar.advance(0)
    _check_covered(opened, mapped, covered)
    return Content(origin, fields, tensors, mapped)


def _tensor(
    opened: OpenModel,
    base: GgufFile,
    mapped: TensorMap,
    name: str,
    before: str,
    wanted: Type,
    everything: bool,
    covered: dict[str, int],
) -> Written:
    """covered: numbers of each parameter that the file holds, counted on."""
    shape, kind = base.shape(before), base.header.tensors[before].kind
    parameter = mapped.parameter(name)
    numbers = base.numbers(before) if parameter is not None or everything else None
    if parameter is not None and numbers is not None:
        for landing in mapped.landings(name, numbers):
            whole = mapped.state[landing.parameter].numel()
            count = whole if landing.mask is None else int(landing.mask.sum())
            covered[landing.parameter] = covered.get(landing.parameter, 0) + count
        if not mapped.is_untouched(name, numbers, opened.save_dtype):
            held = mapped.held(name, shape)
            shape = tuple(mapped.written(held, shape).shape)
            return Written(name, before, kind_for(name, shape, kind, wanted), shape, held, copied=False)
    new = kind_for(name, shape, kind, wanted) if everything else kind
    return Written(name, before, new, shape, None, copied=new == kind)


def _kept_names(base: GgufFile, kept: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """(new name, name in the base) of all tensors that stay, in the file's order."""
    numbers = {old: new for new, old in enumerate(kept)}
    for before in base.header.tensors:
        block = _BLOCK.match(before)
        if block is None:
            yield before, before
            continue
        layer = int(block[1])
        if layer >= base.layers:
            expected = f"blocks of its {base.layers} layers"
            raise ModelError(base.path, expected, before, "use --converter")
        if layer in numbers:
            yield f"blk.{numbers[layer]}.{before[block.end() :]}", before


def _check_covered(opened: OpenModel, mapped: TensorMap, covered: dict[str, int]) -> None:
    """Raises ModelError for a parameter that no tensor of the file holds; of shared ones, one name is enough."""
    there = {_place(mapped.state[name]) for name, count in covered.items() if count >= mapped.state[name].numel()}
    for name, parameter in opened.model.named_parameters():
        if _place(parameter) not in there:
            expected = "parameters that the GGUF file it was made from has tensors for"
            raise ModelError(opened.record.source, expected, name, "use --converter")


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()
