"""A file without a name that tensors lie in, mapped into memory: no crash can leave it behind.

Tensors begin at a page each. So pages can be given back by tensor, and kernels find numbers aligned at least as well as
in memory of torch's own, which their rounding may hang on. What is changed in place is written to the file by the
system, and what was given back is read again when it is looked at.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowrise.errors import OutputError
from lowrise.sizes import said_bytes

ELSEWHERE = "choose another place for --out, or set TMPDIR where there is no --out"
_PIECE = 1 << 28  # bytes of a write


@dataclass(frozen=True)
class Stretch:
    """Bytes of a mapping, from `start` on, which is the first of a page."""

    mapping: mmap.mmap
    start: int
    length: int

    def give_back(self) -> None:
        """Its pages are not this process's any more; the numbers stay in the file."""
        self._advise("MADV_DONTNEED")

    def fetch(self) -> None:
        """It will be read soon."""
        self._advise("MADV_WILLNEED")

    def follows(self, other: Stretch) -> bool:
        return self.mapping is other.mapping and other.start + other.length == self.start

    def _advise(self, name: str) -> None:
        advice = getattr(mmap, name, None)
        if advice is not None:
            self.mapping.madvise(advice, self.start, self.length)


class Scratch:
    """folder: of a disk. expected: bytes that will lie in it, about; more can."""

    def __init__(self, folder: Path, expected: int) -> None:
        self._folder, self._expected = folder, expected
        try:
            self._file = tempfile.TemporaryFile(prefix="lowrise-layers-", dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise OutputError(folder, "a folder for the layers", error.strerror or str(error), ELSEWHERE) from error
        self._closing = weakref.finalize(self, self._file.close)
        self._mapping: mmap.mmap | None = None
        self._begins = self._end = self._mapped_to = 0  # in the file
        self._stretches: dict[int, Stretch] = {}  # by address
        self._offsets: dict[int, int] = {}  # in the file, likewise

    @property
    def size(self) -> int:
        return self._end

    def close(self) -> None:
        """What is mapped stays as long as tensors look into it; then its room on disk is free."""
        self._closing()
        self._mapping, self._stretches, self._offsets = None, {}, {}

    def stretch(self, value: Tensor) -> Stretch | None:
        """Where `value` lies; None for a tensor that lies elsewhere."""
        return self._stretches.get(value.data_ptr())

    def put(self, value: Tensor) -> Tensor:
        """The same numbers in the file. Raises OutputError where there is no room."""
        value = value.detach().contiguous()
        offset, length = self._allocate(value.nbytes)
        self._write(offset, value)
        assert self._mapping is not None
        stretch = Stretch(self._mapping, offset - self._begins, length)
        made = _tensor(stretch, value)
        self._stretches[made.data_ptr()], self._offsets[made.data_ptr()] = stretch, offset
        return made

    def replace(self, old: Tensor, value: Tensor) -> Tensor:
        """Numbers in the place of `old`, which are no larger."""
        stretch = self._stretches[old.data_ptr()]
        value = value.detach().contiguous()
        self._write(self._offsets[old.data_ptr()], value)
        return _tensor(stretch, value)

    def _allocate(self, size: int) -> tuple[int, int]:
        """(first byte in the file, length) of whole pages, reserved now: a full disk must not be a crash later."""
        length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            if self._mapping is None or self._end + length > self._mapped_to:
                self._map_more(length)
            offset, self._end = self._end, self._end + length
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), offset, length)
        except OSError as error:
            what = f"{said_bytes(max(self._expected, self._end))} of room for the layers"
            raise OutputError(
                self._folder, what, error.strerror or str(error), f"free space, or {ELSEWHERE}"
            ) from error
        return offset, length

    def _map_more(self, length: int) -> None:
        unit = mmap.ALLOCATIONGRANULARITY
        self._begins = self._end = -(-self._end // unit) * unit
        self._mapped_to = self._begins + -(-max(length, self._expected) // unit) * unit
        os.ftruncate(self._file.fileno(), self._mapped_to)
        self._mapping = mmap.mmap(self._file.fileno(), self._mapped_to - self._begins, offset=self._begins)

    def _write(self, offset: int, value: Tensor) -> None:
        """By the file, not by the mapping: the pages that are written are then not this process's."""
        content = value.view(-1).view(torch.uint8).numpy().data if value.numel() else b""
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            while piece:
                written = os.pwrite(self._file.fileno(), piece, offset)
                piece, offset = piece[written:], offset + written


def _tensor(stretch: Stretch, like: Tensor) -> Tensor:
    if not like.numel():
        return torch.empty_like(like)
    flat = torch.frombuffer(stretch.mapping, dtype=like.dtype, count=like.numel(), offset=stretch.start)
    return flat.view(like.shape)
