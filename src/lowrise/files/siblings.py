"""Hidden siblings of an output: what is unfinished, what is on its way out, and the lock."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrise.errors import OutputError


def sibling(out: Path, kind: str) -> Path:
    """A name beside `out` that nothing has yet. kind: `partial`, for what is not whole, or `old`, for what is."""
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{kind}")


def siblings(out: Path, kind: str) -> list[Path]:
    """What of this kind lies beside `out`, oldest first; not that of another output whose name begins like this one."""
    name = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-z_]{{8}}\.{kind}")
    with os.scandir(out.parent) as found:
        times = {out.with_name(one.name): one.stat(follow_symlinks=False).st_mtime_ns for one in found
                 if name.fullmatch(one.name)}  # fmt: skip
    return sorted(times, key=lambda path: times[path])


def lock_file(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there; what a signal raises in between is raised once it is gone."""
    to_the_end(lambda: _remove(path))


def to_the_end(step: Callable[[], None]) -> None:
    """Do what may be done twice, once more if it is interrupted: the signal that did so is raised after it."""
    try:
        step()
    except BaseException:
        step()
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns a failed write (full disk, quota, size limit) into one line about `out`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(out, "room to write the result", reason, "free space or choose another place") from error
