"""Files without a name: no crash can leave one behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from lowrise.errors import OutputError


def temporary_file(prefix: str, folder: Path | None = None) -> BufferedRandom:
    """folder: None, that of temporary files. Raises OutputError where no file can be made in it."""
    with making_temporary(folder):
        return tempfile.TemporaryFile(prefix=prefix, dir=folder)


@contextmanager
def making_temporary(folder: Path | None = None) -> Iterator[None]:
    """Around what makes a file there."""
    try:
        yield
    except OSError as error:
        where = "TMPDIR" if folder is None else folder
        remedy = "set TMPDIR to a folder on a disk with room" if folder is None else "choose another place for --out"
        raise OutputError(where, "a folder for temporary files", error.strerror or str(error), remedy) from error
