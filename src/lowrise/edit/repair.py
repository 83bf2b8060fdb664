"""Repair of a cut by any of the methods that the table names (`methods.py`), and where a cut is."""

from __future__ import annotations

import torch

from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.student import Student
from lowrise.methods import load, method


def gaps(student: Student) -> list[tuple[int, int]]:
    """(layer, stop): the layers whose output the next one does not expect, from the bottom up.

    A gap at the very bottom has no layer before it and is not among them.
    """
    found = [(layer, student.following(layer)) for layer in student.layers]
    return [(layer, stop) for layer, stop in found if stop != layer + 1]


@torch.no_grad()
def repair(how: str, task: RepairTask) -> Repaired:
    """The student, repaired in place by the method of this name; its model must have passed that method's `check`."""
    made: Repaired = load(str(method("repair", how).function))(task)
    return made
