"""stdout and stderr that are closed, full, a pipe that nobody reads, or of a locale that lacks the characters."""

from __future__ import annotations

import io
import os
import sys

from lowrise.errors import LowriseError


class StdoutError(LowriseError):
    """What belongs on stdout cannot be printed."""


class _Standard(io.FileIO):
    """stdout or stderr. After a first write that failed the others go nowhere, the one at the end of Python too."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self._number, self._lost = number, False

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self._lost:
            return size
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self._lost = True
            if self._number == 1:
                reason = error.strerror or str(error)
                raise StdoutError(f"stdout: {reason}; nothing more is printed, all files are whole") from error
            return size  # messages: they must not end a run


def keep_streams() -> None:
    """Make stdout and stderr safe: to be called once, at the start.

    One that is closed is opened on nothing, so that no file of a run takes its number. Characters that its encoding
    lacks are written as \\xNN. Messages that cannot be written are dropped; for stdout that is a StdoutError.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        encoding = before.encoding if before is not None else "utf-8"
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Standard(number)),
            encoding,
            errors="backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
        )
        setattr(sys, name, stream)
