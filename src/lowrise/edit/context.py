"""What a repair of drops and merges is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from lowrise.calibration import Windows
from lowrise.edit.fit import Fit
from lowrise.edit.student import Student
from lowrise.model.networks import SpanNetwork
from lowrise.progress import Reporter
from lowrise.work import Work


@dataclass(frozen=True)
class RepairTask:
    """student: the dense model with the layers that are kept; a repair changes its parameters, in place.

    windows: all calibration windows, with special tokens in them where the method's row says `special_tokens`; the last
    `held_out` of them are fitted by nothing.
    work: where what is done can be kept, if it is to be.
    """

    student: Student
    windows: Windows
    held_out: int
    progress: Reporter
    work: Work = field(default_factory=Work)


@dataclass(frozen=True)
class Repaired:
    """fits: what came of every layer or boundary that was solved, from the bottom up.

    networks: what is to act on the stream in front of an original layer (L: behind the last), by its number. A model
    with any of them needs its own modelling file.
    """

    fits: list[Fit]
    networks: dict[int, SpanNetwork] = field(default_factory=dict)
