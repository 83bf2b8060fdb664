"""A repair from layer to layer that is kept as it goes, so that a process to come goes on at the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from lowrise.edit.context import RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.student import Student
from lowrise.observe.activation_store import ActivationStore, LastingStore
from lowrise.work import Work

# What both models have come to, in the store: all that the next layer needs of the layers before it.
_LASTING = ("student", "dense")


def repair_layers(
    task: RepairTask, layers: list[int], step: Callable[[LayerwisePass], Fit | None], *, mixed: bool
) -> list[Fit]:
    """`step` at each of the student's `layers`, which follow each other up to the last that is repaired: it repairs the
    layer at hand, or passes it, and both models go on to the next. What it found, where it found something.

    Kept is, of every layer that is passed, what changed in it and what it found, and of the last one the states behind
    it: while the next layer is worked on, those of two layers lie on disk. mixed: as of `batches_of`.
    """
    work = task.work.part("repair")
    with _store(work, task.student.decoder.store.folder) as store, task.progress.bar("repairing", len(layers)) as bar:
        fits = _restored(task.student, work, layers, store)
        done = len(fits)
        if done:
            bar.advance(0, "kept from before", steps=done)
        left = layers[done:]
        if left:
            layerwise = LayerwisePass(
                task.student, task.windows, task.held_out, store, left[0], mixed=mixed, resumed=done > 0
            )
        for layer in left:
            fit = step(layerwise)
            if isinstance(store, LastingStore):
                value = {"fit": None if fit is None else asdict(fit), "states": store.mark()}
                work.keep(_name(layer), value, layerwise.settled, what=f"layer {layer} of the repair")
            layerwise.settled = {}
            fits.append(fit)
            bar.advance(task.windows.tokens, f"layer {layer}")
        if isinstance(store, LastingStore):
            store.remove()
    return [fit for fit in fits if fit is not None]


@contextmanager
def _store(work: Work, folder: Path | None) -> Iterator[ActivationStore]:
    if not work.keeps:
        with ActivationStore(folder) as store:
            yield store
        return
    with LastingStore((work.place("states-0"), work.place("states-1")), _LASTING, folder) as store:
        yield store


def _restored(student: Student, work: Work, layers: list[int], store: ActivationStore) -> list[Fit | None]:
    """What was found in the layers that are kept, from the first on, once they are put in place.

    They are of no use without the states behind the last one, unless it is the last of all.
    """
    if not isinstance(store, LastingStore):
        return []
    fits, states = list[Fit | None](), []
    for layer in layers:
        record = work.find(_name(layer))
        if record is None:
            break
        fit, states = record.value["fit"], record.value["states"]
        fits.append(None if fit is None else Fit(**fit))
    if fits and len(fits) < len(layers) and not store.restore(states):
        work.distrust(_name(layers[len(fits) - 1]))
        fits = []
    for layer in layers[len(fits) :]:
        work.forget(_name(layer))
    for layer in layers[: len(fits)]:  # one at a time, now that all are known to be whole
        record = work.find(_name(layer))
        assert record is not None
        for name, value in record.tensors.items():
            student.change(layer, name, value)
        student.commit(layer)
    return fits


def _name(layer: int) -> str:
    return f"layer-{layer}"
