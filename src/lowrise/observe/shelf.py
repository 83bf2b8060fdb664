"""States that a search comes back to, in a file: of them memory holds the one that is being worked on."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lowrise.errors import OutputError


class Shelf:
    """States by key, in a file without a name: no crash can leave it behind. Raises OutputError when the disk is full.

    A context manager: the file goes when it ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="lowrise-states-")  # noqa: SIM115 - closed by __exit__
        self._end = 0
        self._kept: dict[Hashable, tuple[int, Tensor]] = {}  # where it begins, and an empty tensor like it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def put(self, key: Hashable, h: Tensor) -> None:
        """Replaces what is there, which must be of the same shape and type."""
        if key not in self._kept:
            self._kept[key] = self._end, torch.empty_like(h, device="meta")
            self._end += h.numel() * h.element_size()
        kept = self._kept[key][1]
        if (kept.shape, kept.dtype) != (h.shape, h.dtype):
            raise ValueError(f"{key}: {tuple(h.shape)} in the place of {tuple(kept.shape)}")
        try:
            self._file.seek(self._kept[key][0])
            self._file.write(_bytes(h.detach().contiguous().cpu()))
            self._file.flush()
        except OSError as error:
            raise OutputError(
                tempfile.gettempdir(),
                "room for the states of a search",
                error.strerror or str(error),
                "set TMPDIR to a larger disk, or give fewer --samples, or less --effort",
            ) from error

    def get(self, key: Hashable) -> Tensor:
        """What was put there last, on the CPU."""
        start, like = self._kept[key]
        h = torch.empty_like(like, device="cpu")
        self._file.seek(start)
        self._file.readinto(_bytes(h))
        return h


def _bytes(h: Tensor) -> memoryview:
    return h.view(torch.uint8).numpy().data.cast("B")
