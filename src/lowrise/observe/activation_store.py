"""States that a search comes back to, in a file: of them memory holds the one that is being worked on.

Those of an accelerator are written, and read ahead, while it computes (`observe/moving.py`).
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeGuard

import torch
from torch import Tensor

from lowrise.errors import OutputError
from lowrise.files.siblings import remove
from lowrise.files.temporary import temporary_file
from lowrise.observe.moving import Mover

_Key = tuple[str | tuple[Any, ...], int]
_AHEAD = 4  # states that are read before they are asked for, at most


class ActivationStore:
    """States by key, in a file without a name: no crash can leave it behind. Raises OutputError when the disk is full.

    A context manager: the file goes when it ends. folder: of the file; None, that of temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file, self._folder = temporary_file("lowrise-states-", folder), folder
        self._end = 0
        self._kept: dict[Hashable, tuple[int, Tensor]] = {}  # where it begins, and an empty tensor like it
        self._mover = Mover()
        self._ahead: dict[Hashable, Future[Tensor]] = {}  # what is being read before it is asked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._mover.close()
        self._file.close()

    def put(self, key: Hashable, h: Tensor) -> None:
        """Replaces what is there, which must be of the same shape and type. The last part of a key of several is the
        number of a batch; they are asked for in order.
        """
        if key not in self._kept:
            self._kept[key] = self._end, torch.empty(h.shape, dtype=h.dtype, device="meta")
            self._end += h.numel() * h.element_size()
        kept = self._kept[key][1]
        if (kept.shape, kept.dtype) != (h.shape, h.dtype):
            raise ValueError(f"{key}: {tuple(h.shape)} in the place of {tuple(kept.shape)}")
        self._ahead.pop(key, None)
        copied, start = self._mover.to_memory(h), self._kept[key][0]
        self._mover.write(lambda: self._write(start, copied()))

    def get(self, key: Hashable) -> Tensor:
        """What was put there last, on the CPU."""
        found = self._ahead.pop(key, None) or self._mover.read(self._reader(key))
        following = _following(key)
        if self._mover.overlaps and following in self and following not in self._ahead:
            self._ahead[following] = self._mover.read(self._reader(following))
            if len(self._ahead) > _AHEAD:
                del self._ahead[next(iter(self._ahead))]
        return self._mover.take(found)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def _reader(self, key: Hashable) -> Callable[[], Tensor]:
        return partial(self._read, *self._kept[key])

    def _write(self, start: int, h: Tensor) -> None:
        try:
            self._file.seek(start)
            self._file.write(_bytes(h))
            self._file.flush()
        except OSError as error:
            disk = "set TMPDIR to a larger disk" if self._folder is None else "choose another place for --out"
            raise OutputError(
                self._folder or tempfile.gettempdir(),
                "room for the states of a search",
                error.strerror or str(error),
                f"{disk}, or give fewer --samples, or less --search-budget",
            ) from error

    def _read(self, start: int, kept: Tensor) -> Tensor:
        h = self._mover.empty(kept.shape, kept.dtype)
        self._file.seek(start)
        self._file.readinto(_bytes(h))
        return h


class LastingStore(ActivationStore):
    """A store of which a process to come finds some states as they were at the last `mark`, however this one ends.

    files: two, so that what is put after a mark never lies over what was there before it. names: first parts of the
    keys, (name, number), of what lasts, or of their names where these have parts of plain JSON; all else lies in the
    file without a name. Of each two states are kept.
    """

    def __init__(self, files: tuple[Path, Path], names: tuple[str, ...], folder: Path | None = None) -> None:
        super().__init__(folder)
        self._names, self._paths, self._files = names, files, list[BinaryIO]()
        self._now: dict[_Key, dict[str, Any]] = {}
        self._marked: dict[_Key, int] = {}  # which of the files must stay as it is
        self._starts: dict[_Key, int] = {}

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        super().__exit__(*error)
        for file in self._files:
            file.close()

    def put(self, key: Hashable, h: Tensor) -> None:
        if not self._lasts(key):
            super().put(key, h)
            return
        if key not in self._starts:
            self._starts[key] = sum(_size(one) for one in self._now.values())
        file = 1 - self._marked[key] if key in self._marked else 0
        about: dict[str, Any] = {"file": file, "start": self._starts[key], "shape": list(h.shape)}
        about |= {"dtype": str(h.dtype).removeprefix("torch."), "crc32": 0}
        if key in self._now and _size(about) != _size(self._now[key]):
            raise ValueError(f"{key}: {tuple(h.shape)} in the place of another shape")
        self._ahead.pop(key, None)
        copied = self._mover.to_memory(h)
        self._mover.write(lambda: self._write_lasting(about, copied()))
        self._now[key] = about

    def __contains__(self, key: Hashable) -> bool:
        return key in self._now if self._lasts(key) else super().__contains__(key)

    def _reader(self, key: Hashable) -> Callable[[], Tensor]:
        return partial(self._read_lasting, self._now[key]) if self._lasts(key) else super()._reader(key)

    def _write_lasting(self, about: dict[str, Any], h: Tensor) -> None:
        try:
            content = _bytes(h)
            about["crc32"] = zlib.crc32(content)
            stream = self._open()[about["file"]]
            stream.seek(about["start"])
            stream.write(content)
            stream.flush()
        except OSError as error:
            where, why = self._paths[about["file"]], error.strerror or str(error)
            raise OutputError(where, "room for the states of a repair", why, "free space, and go on") from error

    def _read_lasting(self, about: dict[str, Any]) -> Tensor:
        h = self._mover.empty(torch.Size(about["shape"]), getattr(torch, about["dtype"]))
        stream = self._open()[about["file"]]
        stream.seek(about["start"])
        stream.readinto(_bytes(h))
        return h

    def mark(self) -> list[list[Any]]:
        """What lasts, from now on as it is now: for `restore`, as plain JSON."""
        self._mover.wait()
        self._marked = {key: about["file"] for key, about in self._now.items()}
        return [[*key, about] for key, about in self._now.items()]

    def restore(self, saved: list[list[Any]]) -> bool:
        """Whether all that was there at a mark is still as it was; then the store holds it."""
        self._now = {(tuple(name) if isinstance(name, list) else name, number): about for name, number, about in saved}
        self._starts = {key: about["start"] for key, about in self._now.items()}
        used = {self._paths[about["file"]] for about in self._now.values()}
        if all(path.is_file() and not path.is_symlink() for path in used) and all(
            zlib.crc32(_bytes(self.get(key))) == about["crc32"] for key, about in self._now.items()
        ):
            self.mark()
            return True
        self._now, self._starts = {}, {}
        return False

    def remove(self) -> None:
        """The files go."""
        for path in self._paths:
            remove(path)

    def _lasts(self, key: Hashable) -> TypeGuard[_Key]:
        name = key[0] if isinstance(key, tuple) else None
        return (name[0] if isinstance(name, tuple) else name) in self._names

    def _open(self) -> list[BinaryIO]:
        if not self._files:
            for path in self._paths:
                if not path.is_file() or path.is_symlink():
                    remove(path)
                    path.touch()
                self._files.append(path.open("r+b"))
        return self._files


def _following(key: Hashable) -> Hashable:
    """The key of the next batch."""
    if isinstance(key, tuple) and key and isinstance(key[-1], int):
        return (*key[:-1], key[-1] + 1)
    return None


def _size(about: Mapping[str, Any]) -> int:
    """Bytes of a state."""
    itemsize: int = getattr(torch, about["dtype"]).itemsize
    return int(math.prod(about["shape"])) * itemsize


def _bytes(h: Tensor) -> memoryview:
    return h.contiguous().view(torch.uint8).numpy().data.cast("B")
