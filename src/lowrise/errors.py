"""Every error lowrise raises on purpose, and the exit status it ends with.

LowriseError                 1   something failed that is not the user's mistake
├── ProofError               1   a written checkpoint does not behave like the model in memory
├── RoomError                1   memory ended, of a device or of the machine
├── StepError                *   a process of its own failed: its line and its exit status are passed on
└── InputError               2   what the user gave cannot be used
    ├── RecipeError              an option or a recipe key
    ├── MethodError              a method that there is none of, or that a package offers wrongly
    ├── ModelError               a model that cannot be opened, or is not fit to be pruned
    ├── TextError                calibration or evaluation text
    ├── TaskError                a task that cannot be measured on
    ├── PlanError                a plan file, or a plan for another model
    └── OutputError              the place the result should go to
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

MOST_NAMES = 10_000  # of a folder that are compared with a mistyped one
ROOM = "free memory of the device, name another by --device, or say --dtype bfloat16"
MOST_CHARACTERS = 480  # of one line to the user; what the command line puts in front comes to it


def printable(text: str) -> str:
    """`text` with control characters, and what no terminal can print, written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str, most: int | None = MOST_CHARACTERS) -> str:
    """`text` as one printable line.

    most: characters; what is longer loses its middle, since the end of a path says as much as its start.
    """
    line = printable(" ".join(text.split()))
    if most is None or len(line) <= most:
        return line
    start = (most - 1) // 2
    return f"{line[:start]}…{line[len(line) - (most - 1 - start) :]}"


def reason(error: BaseException) -> str:
    """What a library says went wrong: its first line, with the next where the first only announces it by a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


class LowriseError(Exception):
    """Every error that lowrise raises on purpose. Its text is one line; exit_status is what the command ends with."""

    exit_status = 1


class ProofError(LowriseError):
    """The reloaded checkpoint differs from the model that was saved."""


class RoomError(LowriseError):
    """Memory ended where no smaller batch helps."""

    def __init__(self, found: str, remedy: str = ROOM) -> None:
        super().__init__(f"{found}; {remedy}")


class StepError(LowriseError):
    """What a process that lowrise started ended with."""

    def __init__(self, line: str, exit_status: int) -> None:
        super().__init__(line)
        self.exit_status = exit_status


class InputError(LowriseError):
    """One line: where, what was expected, what was found, what to do."""

    exit_status = 2

    def __init__(self, where: object, expected: str, found: str, remedy: str) -> None:
        parts = [one_line(str(part), most=None) for part in (where, expected, found, remedy)]
        between = len(": expected , found ; ")
        while sum(map(len, parts)) + between > MOST_CHARACTERS:  # the longest part loses its middle
            longest = max(range(len(parts)), key=lambda i: len(parts[i]))
            excess = sum(map(len, parts)) + between - MOST_CHARACTERS
            parts[longest] = one_line(parts[longest], max(len(parts[longest]) - excess, MOST_CHARACTERS // 5))
        where, expected, found, remedy = parts
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        super().__init__(f"{where}: expected {expected}, found {found}; {remedy}")


class RecipeError(InputError):
    pass


class MethodError(InputError):
    pass


class ModelError(InputError):
    pass


class TextError(InputError):
    pass


class TaskError(InputError):
    pass


class PlanError(InputError):
    pass


class OutputError(InputError):
    pass


# What libraries raise on files from outside that are not what they should be; each place adds its parsers' own.
UNUSABLE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    ImportError,
    RuntimeError,
)


def close_names(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """A remedy for a mistyped name: its nearest relatives; else `otherwise`, or all that there is."""
    known = sorted(map(str, known))  # a task file may name its task by a number
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose one of {', '.join(known)}" if otherwise is None else otherwise


def close_paths(path: str | Path, otherwise: str) -> str:
    """A remedy for a path that leads nowhere: what is there under a name that is nearly the same; else `otherwise`."""
    wanted = Path(path)
    try:
        above = next(folder for folder in wanted.parents if folder.is_dir())
        names = [entry.name for entry in islice(os.scandir(above), MOST_NAMES) if entry.name.isprintable()]
        missing, *rest = wanted.relative_to(above).parts
        near = get_close_matches(missing, sorted(names), n=3, cutoff=0.75)
        found = [str(there) for name in near if (there := above.joinpath(name, *rest)).exists()]
    except (OSError, ValueError, StopIteration):  # a folder that may not be read; no path at all
        return otherwise
    return f"did you mean {' or '.join(found)}?" if found else otherwise
