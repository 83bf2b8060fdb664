"""Two names exchanged in one step, or a name taken only if it is free: renameat2 (Linux), else the next best order.

https://man7.org/linux/man-pages/man2/rename.2.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from lowrise.files.siblings import sibling

_HERE = -100  # AT_FDCWD: relative paths are those of the current folder
_NOREPLACE, _EXCHANGE = 1, 2
_ABSENT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # of the system, or of this file system


def exchange(folder: Path, out: Path) -> None:
    """`folder` takes the name of `out`, and `out` that of `folder`.

    Where that cannot be one step, `out` lies beside under a name ending in `.old` for a moment: always whole, and put
    back by the next run (`output.held`) if this process dies there.
    """
    try:
        rename(folder, out, _EXCHANGE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        old = sibling(out, "old")
        try:
            out.rename(old)
            folder.rename(out)
        finally:
            if os.path.lexists(old):
                old.rename(folder if os.path.lexists(out) else out)


def move_to_free(path: Path, target: Path) -> None:
    """Raises FileExistsError where `target` is anything at all."""
    try:
        rename(path, target, _NOREPLACE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        path.rename(target)


def rename(path: Path, target: Path, flags: int) -> None:
    """renameat2. Raises OSError, with ENOSYS where the system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target))
    if call(_HERE, os.fsencode(path), _HERE, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))
