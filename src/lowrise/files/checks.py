"""What can be known of an output before anything is computed for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from lowrise.errors import OutputError
from lowrise.files.marks import is_empty, wrote_file, wrote_folder
from lowrise.files.siblings import sibling

# As long as the longest path that is made inside an output; `x` for names that no file has.
_INNER = Path("x" * 80, "x" * 80)


def check_output(out: Path, force: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse a folder that exists, or cannot be made or replaced.

    inputs: what the run reads. With `force` too, an output never takes the place of one, nor of the current folder, nor
    of anything that lowrise did not write.
    """
    place = _checked_place(out, inputs)
    if place.exists() and not force:
        raise OutputError(out, "a folder that does not exist yet", "one that does", "choose another or say --force")
    reason = cannot_be_replaced(place)
    if reason is not None:
        raise OutputError(out, *reason)
    _check_writable(out, place)


def check_file(
    path: Path,
    force: bool,
    inputs: Iterable[str | Path | None] = (),
    known: Callable[[Path], bool] = wrote_file,
    what: str = "a plan or results",
) -> None:
    """Refuse a file that exists, or cannot be written or replaced. inputs: as of `check_output`.

    known: says of a file that it is one that `force` may replace; what: these, in words.
    """
    place = _checked_place(path, inputs)
    if place.is_dir():
        raise OutputError(path, "a file", "a folder", "give a file name")
    if place.exists() and not place.is_file():
        raise OutputError(path, "a file", "a device, a pipe or a socket", "give a file name, or say --json")
    if place.exists() and not force:
        raise OutputError(path, "a file that does not exist yet", "one that does", "choose another or say --force")
    if place.exists() and not is_empty(place) and not known(place):
        found = "a file that lowrise did not write"
        raise OutputError(path, f"{what}, which --force replaces", found, "choose another name")
    _check_writable(path, place)


def cannot_be_replaced(place: Path) -> tuple[str, str, str] | None:
    """(expected, found, remedy) unless --force may put a folder there."""
    if not place.exists():
        return None
    if not place.is_dir():
        found = "a file" if place.is_file() else "a device, a pipe or a socket"
        return "a folder", found, "choose another name"
    if os.path.ismount(place):
        return "a folder that can be renamed", "one where a disk is mounted", "choose a folder in it"
    if not is_empty(place) and not wrote_folder(place):
        expected = "an empty folder or an output of lowrise, which --force replaces"
        return expected, "a folder that lowrise did not write", "choose another or remove it yourself"
    return None


def _checked_place(out: Path, inputs: Iterable[str | Path | None]) -> Path:
    """Where `out` is in truth, once its name is known to be one that can be made, and not the place of an input."""
    try:
        str(out).encode("utf-8")
        for path in (out, *out.parents):
            if path.is_symlink() and not path.exists():
                raise OutputError(out, "a place that can be written", f"{path}, a link to nowhere", "choose another")
        place, here = out.resolve(), Path.cwd()
        _look_at(sibling(place, "partial") / _INNER)
    except UnicodeEncodeError as error:
        raise OutputError(out, "a name in UTF-8", "other bytes", "choose another name") from error
    except (OSError, RuntimeError, ValueError) as error:  # what pathlib says of links in a circle, and of a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(out, "a name that can be made", reason, "choose another place") from error
    for name, path in [("the current folder", here), *((str(one), Path(one)) for one in inputs if one)]:
        other = Path(os.path.realpath(path))  # of links in a circle too, which whoever reads the input refuses
        if os.path.lexists(path) and other.is_relative_to(place):
            found = f"{name}, which this run needs" if other == place else f"{name} in it"
            raise OutputError(out, "a place that nothing else needs", found, "choose another")
    return place


def _look_at(path: Path) -> None:
    """Raises OSError for what can never be, as a name that is too long."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()


def _check_writable(out: Path, place: Path) -> None:
    parent = place.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(out, "a place that can be written", f"{parent}, which cannot", "choose another place")
