"""Forks of a process in the middle of its work. Each may do to a folder what it likes: the folder is put back.

What the process has open below the folder stays what it was: files are put back by their own inodes, and a fork has
descriptions of its own, so that it shares neither offsets nor locks. Directories are made anew; none may be open.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Entry:
    """kept: another name of the file; None: a directory."""

    status: os.stat_result
    kept: Path | None
    content: bytes


class Snapshot:
    """Of all that lies below `place`. spare: a folder on the same file system, emptied first, for other names of it."""

    def __init__(self, place: Path, spare: Path) -> None:
        shutil.rmtree(spare, ignore_errors=True)
        spare.mkdir()
        self._place, self._entries = place, {}
        for number, path in enumerate(sorted(place.rglob("*"))):  # what holds something else comes before it
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                self._entries[path] = _Entry(status, None, b"")
                continue
            assert stat.S_ISREG(status.st_mode), f"{path} is no file"
            kept = spare / str(number)
            os.link(path, kept)
            self._entries[path] = _Entry(status, kept, path.read_bytes())

    def put_back(self) -> None:
        for path in sorted(self._place.rglob("*"), reverse=True):
            status, entry = path.lstat(), self._entries.get(path)
            if entry is not None and _is_same(status, entry):
                continue
            if stat.S_ISDIR(status.st_mode):
                path.rmdir()
            else:
                path.unlink()
        for path, entry in self._entries.items():
            if entry.kept is None:
                path.mkdir(exist_ok=True)
            elif not path.exists():
                os.link(entry.kept, path)
            self._mend(path, entry)

    @staticmethod
    def _mend(path: Path, entry: _Entry) -> None:
        found, wanted = path.lstat(), entry.status
        if found.st_mode != wanted.st_mode:
            path.chmod(stat.S_IMODE(wanted.st_mode))
        if entry.kept is not None and (found.st_size, found.st_mtime_ns) != (wanted.st_size, wanted.st_mtime_ns):
            handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
            os.write(handle, entry.content)
            os.close(handle)
            os.utime(path, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))


def _is_same(status: os.stat_result, entry: _Entry) -> bool:
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(entry.status.st_mode):
        return False
    return entry.kept is None or status.st_ino == entry.status.st_ino


class Forking:
    """`fork` as os.fork, but that the child shares no open file below `place` with its parent. Call `ended` after it.

    Locks go to the child meanwhile.
    """

    def __init__(self, place: Path) -> None:
        self._open = [handle for handle in _handles() if _target(handle).startswith(str(place))]
        self._locked = [one for one in self._open if "FLOCK" in Path(f"/proc/self/fdinfo/{one}").read_text()]

    def fork(self) -> int:
        for handle in self._locked:
            fcntl.flock(handle, fcntl.LOCK_UN)
        child = os.fork()
        if child == 0:
            for handle in self._open:
                self._reopen(handle)
        return child

    def ended(self) -> None:
        for handle in self._locked:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _reopen(self, handle: int) -> None:
        how = fcntl.fcntl(handle, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND)
        own = os.open(f"/proc/self/fd/{handle}", how)
        os.lseek(own, os.lseek(handle, 0, os.SEEK_CUR), os.SEEK_SET)
        if handle in self._locked:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(own, handle, inheritable=False)
        os.close(own)


def _handles() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208


def _target(handle: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115
    except OSError:
        return ""  # of the listing itself, which is over
