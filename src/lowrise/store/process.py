"""What this process and this machine have of memory, as the system counts it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_STATM, _MAPS, _MOUNTS = Path("/proc/self/statm"), Path("/proc/self/maps"), Path("/proc/self/mountinfo")
_CGROUP = Path("/sys/fs/cgroup")
_IN_MEMORY = {"tmpfs", "ramfs"}  # file systems that lie in memory themselves


def resident() -> int:
    """Bytes of this process in memory, mapped files that are there included."""
    try:
        return int(_STATM.read_bytes().split()[1]) * mmap.PAGESIZE
    except OSError:  # no Linux
        return int(psutil.Process().memory_info().rss)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the group of processes that it runs in."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no such group, or one without a limit
        most, now = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, most - now + int(cached.get("inactive_file", 0)))
    return max(0, free)


def lies_in_memory(folder: Path) -> bool:
    """Whether what is written there takes memory and no disk."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    device = folder.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    kinds = (line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == name)
    return any(kind in _IN_MEMORY for kind in kinds)


def forget_files(files: Iterable[Path]) -> None:
    """Pages of files that were mapped to be read, and not written, are not this process's any more; until they are
    read again.
    """
    files, libc = [*files], _libc()
    if not files or libc is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    for start, stop in _mapped(files):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(mmap.MADV_DONTNEED))


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _mapped(files: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Addresses, from and to, where one of the files is mapped."""
    names = {str(file.resolve()) for file in files}
    with suppress(OSError):
        for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
            parts = line.split(maxsplit=5)
            if len(parts) == 6 and parts[5] in names:
                start, stop = (int(address, 16) for address in parts[0].split("-"))
                yield start, stop
