"""Repair of a cut by any of the methods that the table names (`methods/rows.py`), and where a cut is."""

from __future__ import annotations

import torch

from lowrise.edit.boundary import gaps_of
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.student import Student
from lowrise.methods import load, method


def gaps(student: Student) -> list[tuple[int, int]]:
    """(layer, stop): the layers whose output the next one does not expect, from the bottom up.

    A gap at the very bottom has no layer before it and is not among them.
    """
    return [(gap.start - 1, gap.stop) for gap in gaps_of(student) if gap.start > 0]


@torch.no_grad()
def repair(how: str, task: RepairTask) -> Repaired:
    """The student, repaired in place by the method of this name; its model must have passed that method's `check`."""
    made: Repaired = load(str(method("repair", how).function))(task)
    return made
