"""What a rule is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from lowrise.engines.checkpoint import Checkpoint
from lowrise.restriction import Restriction

Fate = Literal["opens", "wrong", "refuses", "unknown"]


@dataclass(frozen=True)
class Finding:
    """because: a clause, as in `opens WRONG because …`.

    A fate of `opens` is a limit: something that the engine does with the model before the cut just as well.
    """

    fate: Fate
    because: str


class Rule(Protocol):
    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        """None where the engine reads it as transformers 5 does."""

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        """Of the cuts of a model; None where every cut is read right. title: the engine's."""


class Unrestricted:
    """A rule that layers have no part in."""

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class AsWritten(Unrestricted):
    """The engine looks at settings alone that follow a cut: at no layer's number, and not at how many there are."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:  # noqa: ARG002
        return None


def equal(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:,.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
