"""A repair by name on a student, as a run calls it."""

from __future__ import annotations

from lowrise.calibration import Windows
from lowrise.edit import repair as by_name
from lowrise.edit.context import RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.student import Student
from lowrise.progress import Reporter


def repair(student: Student, windows: Windows, held_out: int, how: str, progress: Reporter) -> list[Fit]:
    return by_name.repair(how, RepairTask(student, windows, held_out, progress)).fits
