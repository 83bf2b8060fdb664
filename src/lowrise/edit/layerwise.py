"""A repair from layer to layer that is kept as it goes, so that a process to come goes on at the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from lowrise.edit.context import RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.student import Student
from lowrise.edit.sweep import Sweep
from lowrise.observe.shelf import LastingShelf, Shelf
from lowrise.work import Work

# What both models have come to, on the shelf: all that the next layer needs of the layers before it.
_LASTING = ("student", "dense")


def repair_layers(
    task: RepairTask, layers: list[int], step: Callable[[Sweep], Fit | None], *, mixed: bool
) -> list[Fit]:
    """`step` at each of the student's `layers`, which follow each other up to the last that is repaired: it repairs the
    layer at hand, or passes it, and both models go on to the next. What it found, where it found something.

    Kept is, of every layer that is passed, what changed in it and what it found, and of the last one the states behind
    it: while the next layer is worked on, those of two layers lie on disk. mixed: as of `batches_of`.
    """
    work = task.work.part("repair")
    with _shelf(work) as shelf, task.report.bar("repairing", len(layers)) as bar:
        fits = _restored(task.student, work, layers, shelf)
        done = len(fits)
        if done:
            bar.advance(0, "kept from before", steps=done)
        left = layers[done:]
        if left:
            sweep = Sweep(task.student, task.windows, task.held_out, shelf, left[0], mixed=mixed, resumed=done > 0)
        for layer in left:
            fit = step(sweep)
            if isinstance(shelf, LastingShelf):
                value = {"fit": None if fit is None else asdict(fit), "states": shelf.mark()}
                work.keep(_name(layer), value, sweep.settled, what=f"layer {layer} of the repair")
            sweep.settled = {}
            fits.append(fit)
            bar.advance(task.windows.tokens, f"layer {layer}")
        if isinstance(shelf, LastingShelf):
            shelf.remove()
    return [fit for fit in fits if fit is not None]


@contextmanager
def _shelf(work: Work) -> Iterator[Shelf]:
    if not work.keeps:
        with Shelf() as shelf:
            yield shelf
        return
    with LastingShelf((work.place("states-0"), work.place("states-1")), _LASTING) as shelf:
        yield shelf


def _restored(student: Student, work: Work, layers: list[int], shelf: Shelf) -> list[Fit | None]:
    """What was found in the layers that are kept, from the first on, once they are put in place.

    They are of no use without the states behind the last one, unless it is the last of all.
    """
    if not isinstance(shelf, LastingShelf):
        return []
    fits, states = list[Fit | None](), []
    for layer in layers:
        record = work.find(_name(layer))
        if record is None:
            break
        fit, states = record.value["fit"], record.value["states"]
        fits.append(None if fit is None else Fit(**fit))
    if fits and len(fits) < len(layers) and not shelf.restore(states):
        work.distrust(_name(layers[len(fits) - 1]))
        fits = []
    for layer in layers[len(fits) :]:
        work.forget(_name(layer))
    for layer in layers[: len(fits)]:  # one at a time, now that all are known to be whole
        record = work.find(_name(layer))
        assert record is not None
        for name, value in record.tensors.items():
            student.change(layer, name, value)
        student.settle(layer)
    return fits


def _name(layer: int) -> str:
    return f"layer-{layer}"
