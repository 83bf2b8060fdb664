"""Every error lowrise raises on purpose, and the exit status it ends with.

LowriseError                 1   something failed that is not the user's mistake
├── ProofError               1   a written checkpoint does not behave like the model in memory
├── StepError                *   a process of its own failed: its line and its exit status are passed on
└── InputError               2   what the user gave cannot be used
    ├── RecipeError              an option or a recipe key
    ├── ModelError               a model that cannot be opened, or is not fit to be pruned
    ├── TextError                calibration or evaluation text
    ├── TaskError                a task that cannot be measured on
    ├── PlanError                a plan file, or a plan for another model
    └── OutputError              the place the result should go to
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LowriseError(Exception):
    exit_status = 1


class ProofError(LowriseError):
    """The reloaded checkpoint differs from the model that was saved."""


class StepError(LowriseError):
    """What a process that lowrise started ended with."""

    def __init__(self, line: str, exit_status: int) -> None:
        super().__init__(line)
        self.exit_status = exit_status


class InputError(LowriseError):
    """One line: where, what was expected, what was found, what to do."""

    exit_status = 2

    def __init__(self, where: object, expected: str, found: str, remedy: str) -> None:
        super().__init__(" ".join(f"{where}: expected {expected}, found {found}; {remedy}".split()))


class RecipeError(InputError):
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


def close_names(name: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped name: its nearest relatives, or all that there is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
