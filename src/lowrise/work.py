"""What a run has made so far, in a hidden folder beside its output, so that the same command goes on where it ended.

A record is NAME.json, sealed by a checksum, and where it holds tensors NAME.CHECKSUM.safetensors beside it. The tensors
are written first: a record is there once its JSON is, and until then the one before it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowrise.errors import OutputError
from lowrise.files.sealed import read_state, write_state
from lowrise.files.siblings import remove, sibling, siblings, writing
from lowrise.headers import safetensors_header
from lowrise.progress import Reporter
from lowrise.reading import UnreadableError, opened, refusing

_PIECE = 1 << 22  # bytes that are read at once


@dataclass(frozen=True)
class Record:
    """value: plain JSON. tensors: on the CPU."""

    value: Any
    tensors: dict[str, Tensor]


class Work:
    """Records by name, in the folder `.NAME.KEY.work` beside the output NAME, made when the first record is.

    out: as it is in truth; None where nothing is kept. key: eight hexadecimal digits of all that decides the result.
    seconds: what the run has taken so far, kept with every record. Only the process that holds the lock of the output
    may use it. What is damaged is said, removed, and found no more.
    """

    def __init__(
        self,
        out: Path | None = None,
        key: str = "",
        progress: Reporter | None = None,
        seconds: Callable[[], dict[str, float]] = dict,
        name: str = "",
    ) -> None:
        self._out, self._key, self._progress, self._seconds, self._name = out, key, progress, seconds, name
        self._folder = None if out is None else out.with_name(f".{out.name}.{key}.work")
        self._last = [""]  # what was kept last, in words; one for all parts

    @property
    def keeps(self) -> bool:
        return self._folder is not None

    def part(self, name: str) -> Work:
        """The same folder, for records that may have the names of others."""
        made = Work(self._out, self._key, self._progress, self._seconds, f"{self._name}{name}-")
        made._last = self._last
        return made

    def keep(self, name: str, value: Any, tensors: Mapping[str, Tensor] | None = None, *, what: str) -> None:
        """In the place of the record of that name, if there is one. what: it is, in words for the user.

        Raises OutputError where there is no room.
        """
        if self._folder is None:
            return
        try:
            file = self.place(f"{name}.json")
            stored = None if tensors is None else _store(file, tensors)
            write_state(file, {"value": value, "tensors": stored, "seconds": self._seconds()})
            _clear(file, but=stored)
        except OutputError as error:
            why = getattr(error.__cause__, "strerror", None) or str(error.__cause__)
            remedy = "free space, and the same command goes on"
            raise OutputError(self._out, f"room to keep {what} beside it", why, remedy) from error
        self._last[0] = what

    def find(self, name: str) -> Record | None:
        """What was kept last under that name, if it is whole."""
        if self._folder is None or not os.path.lexists(file := self._folder / f"{self._name}{name}.json"):
            return None
        found = read_state(file)
        if found is not None and found["tensors"] is None:
            return Record(found["value"], {})
        tensors = None if found is None else _loaded(file.with_name(found["tensors"]))
        if found is None or tensors is None:
            self.distrust(name)
            return None
        return Record(found["value"], tensors)

    def distrust(self, name: str) -> None:
        """A record is not what it must be: it goes, and whoever wants it makes it anew."""
        if self._progress is not None and self._folder is not None:
            self._progress.warn(f"{self._folder / f'{self._name}{name}.json'} is damaged: made anew")
        self.forget(name)

    def forget(self, name: str) -> None:
        if self._folder is not None:
            file = self._folder / f"{self._name}{name}.json"
            remove(file)
            _clear(file, but=None)

    def place(self, name: str) -> Path:
        """Of a file in the folder, which is made if it is not there. Only where something is kept."""
        assert self._folder is not None
        if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
            remove(self._folder)
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
        return self._folder / f"{self._name}{name}"

    def begin(self, progress: Reporter, fresh: bool) -> None:
        """Say what lies there already, of this run and of others for the same output. fresh: this run's goes."""
        if self._out is None or self._folder is None or not self._out.parent.is_dir():
            return
        if fresh:
            self.remove()
        found = siblings(self._out, "work")
        if self._folder in found:
            progress.say(f"going on with what is kept in {self._folder}")
        others = [str(one) for one in found if one != self._folder]
        if others:
            progress.say(f"other runs for {self._out} were not finished, and stay: {', '.join(others)}")

    def seconds(self) -> dict[str, float]:
        """What the run had taken when the last of the records was kept, by stage and in `total`."""
        if self._folder is None:
            return {}
        found = filter(None, map(read_state, self._folder.glob("*.json")))
        times: list[dict[str, float]] = [one["seconds"] for one in found]
        return max(times, key=lambda one: one.get("total", 0.0), default={})

    def stopped(self, progress: Reporter) -> None:
        """Say where an interrupted run stands."""
        if self._folder is None or not self._folder.is_dir():
            progress.say("nothing is kept as yet: the same command begins anew")
        else:
            last = f" ({self._last[0]} last)" if self._last[0] else ""
            progress.say(f"what is done is kept in {self._folder}{last}; the same command goes on from there")

    def remove(self) -> None:
        """The folder goes by one rename: whatever ends this process meanwhile, no part of it is found again."""
        if self._out is None or self._folder is None or not os.path.lexists(self._folder):
            return
        going = sibling(self._out, "partial")  # which the next run for `out` removes, if this one does not come to it
        try:
            with writing(self._folder):
                self._folder.rename(going)
        finally:
            remove(going)


def _store(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Beside the record's `file`; the name of theirs."""
    with writing(file):
        partial = sibling(file, "partial")
        try:
            save_file(_apart(tensors), partial)
            stored = file.with_suffix(f".{_checksum(partial):08x}.safetensors")
            partial.replace(stored)
        finally:
            remove(partial)
    return stored.name


def _loaded(file: Path) -> dict[str, Tensor] | None:
    """None for a file that is not as it was stored."""
    try:
        safetensors_header(file, OutputError, "make it anew")
        with refusing(file, OutputError, "tensors that were kept", "make them anew"):
            if file.name.split(".")[-2] != f"{_checksum(file):08x}":
                raise UnreadableError("others")
            found: dict[str, Tensor] = load_file(file)
            return found
    except (OutputError, SafetensorError):
        return None


def _clear(file: Path, but: str | None) -> None:
    """Tensors that the record in `file` holds no more."""
    for other in file.parent.glob(f"{file.stem}.*.safetensors"):
        if other.name != but:
            remove(other)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each in memory of its own, which the format asks for: no part of a larger tensor, and no other's."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, given in tensors.items():
        value = given.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in taken or value.untyped_storage().nbytes() != value.nbytes else value
        taken.add(place)
    return found


def _checksum(file: Path) -> int:
    """CRC-32: against damage, at the speed of reading."""
    found = 0
    with opened(file) as stream:
        while piece := stream.read(_PIECE):
            found = zlib.crc32(piece, found)
    return found
