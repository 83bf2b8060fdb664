"""Writing so that a crash, a full disk or Ctrl-C leaves nothing half done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrise.errors import OutputError


def check_output(out: Path, force: bool, model: str | None = None) -> None:
    """Refuse, before any work is done, an output that exists or cannot be made.

    model: what is read; with `force` too, an output never takes the place of it, nor of the current folder.
    """
    with writing(out):
        place = out.resolve()
        out.exists()  # a name that the file system cannot hold fails here
    for name, other in (("the model itself", Path(model or "")), ("the current folder", Path.cwd())):
        if (model or other == Path.cwd()) and other.exists() and other.resolve().is_relative_to(place):
            raise OutputError(out, "a folder that nothing else needs", f"{name} in it", "choose another")
    if out.exists() and not force:
        raise OutputError(out, "a folder that does not exist yet", "one that does", "choose another or say --force")
    if out.exists() and not out.is_dir():
        raise OutputError(out, "a folder", "a file", "choose another name")
    _check_writable(out)


@contextmanager
def output_folder(out: Path, force: bool) -> Iterator[Path]:
    """A temporary sibling of `out` to write into; it becomes `out` if all went well and vanishes if not.

    With `force` an old `out` stands until the new one is whole. A full disk ends in one line.
    """
    check_output(out, force)
    made = _missing_parents(out)
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        try:
            yield folder
            with writing(out):
                _open_to_readers(folder)
                _swap(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns a failed write (full disk, quota, size limit) into one line about `out`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(out, "room to write the result", reason, "free space or choose another place") from error


def check_file(path: Path, force: bool) -> None:
    """Refuse, before any work is done, a file that exists."""
    if path.is_dir():
        raise OutputError(path, "a file", "a folder", "give a file name")
    if path.exists() and not force:
        raise OutputError(path, "a file that does not exist yet", "one that does", "choose another or say --force")
    _check_writable(path)


def write_file(path: Path, text: str) -> None:
    """Write to a temporary sibling, then rename."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _swap(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    try:
        out.rename(old / "was")
        try:
            folder.rename(out)
        except OSError:
            (old / "was").rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """The permissions that the user's umask gives, which temporary folders and some writers do not."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _check_writable(out: Path) -> None:
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(out, "a place that can be written", f"{parent}, which cannot", "choose another place")


def _missing_parents(out: Path) -> list[Path]:
    """Folders above `out` that this run will make, innermost first."""
    missing, parent = [], out.absolute().parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    return missing


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
