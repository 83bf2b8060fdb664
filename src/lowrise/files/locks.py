"""One process at a time, by locks that the system frees when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrise.files.siblings import to_the_end

try:
    import fcntl
except ImportError:  # Windows has none: two processes are not kept apart there, and leftovers are not removed
    fcntl = None  # type: ignore[assignment]

_NONE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK}  # file systems without locks
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}  # places where no lock file can be made
_GLANCE = 0.05  # seconds between two tries


class TakenError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(file: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock of this file, which is there meanwhile and gone afterwards. False: there are no locks here.

    patience: seconds to wait for another process. Raises TakenError.
    """
    handle: int | None = None
    try:
        handle = _taken(file, time.monotonic() + patience)
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)
        to_the_end(lambda: _clear(file))


def lock(handle: int) -> bool:
    """Whether this open file is locked now; False where locks do not exist. Raises TakenError."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TakenError from error
    except OSError as error:
        if error.errno in _NONE:
            return False
        raise
    return True


def still_named(handle: int, file: Path) -> bool:
    """Whether `file` is what is open: its last holder deletes it, maybe just before this process locks it."""
    try:
        return os.path.samestat(os.fstat(handle), file.lstat())
    except FileNotFoundError:
        return False


def _taken(file: Path, until: float) -> int | None:
    """The locked file, open. None where none can be."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if error.errno in _CLOSED:
                return None
            raise
        held = False
        try:
            if not lock(handle):
                return None
            held = still_named(handle, file)
            if held:
                return handle
        except TakenError:
            if time.monotonic() >= until:
                raise
            time.sleep(_GLANCE)
        finally:
            if not held:
                os.close(handle)


def _clear(file: Path) -> None:
    """Delete the lock file, unless another process has come to hold it."""
    try:
        handle = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        lock(handle)
        if still_named(handle, file):
            file.unlink()
    except TakenError:
        pass
    finally:
        os.close(handle)
