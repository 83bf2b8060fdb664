"""The gaps of a cut and the residual stream on both sides of them: what repairs at a boundary are fitted on.

A gap [start, stop): layer start - 1 of the dense model writes to layer stop in the student. All states are the dense
model's, as the papers have them: a map is solved for h[start] → h[stop], not for what the student makes of the layers
below. A merged layer before a gap is run on its dense input, and what leaves it stands for h[start].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.edit.context import RepairTask
from lowrise.edit.gram import weight_of
from lowrise.edit.layerwise_pass import batches_of
from lowrise.edit.student import Student
from lowrise.exact import exact, exact_sum
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.lent_states import LentStore
from lowrise.observe.passes import through


@dataclass(frozen=True)
class Gap:
    """start: the first layer that is gone, so that start - 1 (−1: the embedding) writes to layer stop (L: the head)."""

    start: int
    stop: int


def gaps_of(student: Student) -> list[Gap]:
    """From the bottom up, with the one at the very bottom."""
    ends = [*student.layers, len(student.decoder)]
    starts = [0, *(layer + 1 for layer in student.layers)]
    return [Gap(start, stop) for start, stop in zip(starts, ends, strict=True) if start != stop]


class Boundary:
    """One gap, and the stream about it, of all calibration tokens."""

    def __init__(self, gap: Gap, store: ActivationStore, held: list[bool], device: torch.device) -> None:
        self.gap, self.device, self._store, self._held = gap, device, store, held

    def pairs(
        self, held_out: bool, first: int | None = None, last: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(h[first], h[last]) batch by batch, (tokens, d) each, in the model's precision; start and stop without.

        Others between the two are there if `boundaries` was asked for `every` state.
        """
        first, last = (end if one is None else one for one, end in ((first, self.gap.start), (last, self.gap.stop)))
        for number, held in enumerate(self._held):
            if held == held_out:
                yield self._state(first, number), self._state(last, number)

    def error(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> float:
        """Mean ‖h[stop] - change(h[start])‖²/‖h[stop]‖ of a held-out token. change: of (tokens, d), float64."""
        total, tokens = 0.0, 0
        for x, target in self.pairs(held_out=True):
            missing = exact(target) - change(exact(x))
            total += float(exact_sum(missing.square().sum(-1) * exact(weight_of(target))))
            tokens += len(x)
        return total / max(1, tokens)

    def _state(self, layer: int, number: int) -> Tensor:
        return self._store.get((layer - self.gap.start, number)).to(self.device, non_blocking=True).flatten(0, -2)


@torch.no_grad()
def boundaries(task: RepairTask, *, every: bool = False) -> Iterator[Boundary]:
    """The gaps from the bottom up, in one pass of the dense model, which must stay as it is meanwhile.

    Layers are run on one batch at a time; on disk lie, of all tokens, the state that the model has reached and the
    two about the gap, with `every` one for each layer of it besides.
    """
    student, decoder = task.student, task.student.decoder
    gaps = gaps_of(student)
    parts = task.windows.cut(len(task.windows) - task.held_out)
    batches = batches_of(*parts, decoder.batch_tokens, mixed=False)
    with ActivationStore(decoder.store.folder) as store, task.progress.bar("repairing", len(gaps)) as bar:
        at = 0
        for gap in gaps:
            _cross(student, gap, at, [ids for ids, _ in batches], store, every)
            at = gap.stop
            yield Boundary(gap, store, [held for _, held in batches], decoder.device)
            bar.advance(task.windows.tokens, f"gap [{gap.start}, {gap.stop})")


def _cross(student: Student, gap: Gap, at: int, batches: list[Tensor], store: ActivationStore, every: bool) -> None:
    """The dense model from the entry of layer `at` to the end of the gap; what its boundary looks at is stored."""
    decoder = student.decoder
    merged = gap.start - 1 if gap.start - 1 in student.changed else None

    def begin(number: int) -> Tensor:
        return store.get(("dense", number))

    def keep(number: int, layer: int, h: Tensor) -> None:
        if layer == merged:
            store.put(("merged", number), h)
        if layer in (gap.start, gap.stop) or (every and layer > gap.start):
            store.put((layer - gap.start, number), h)

    lent = LentStore(decoder, store, lambda _: "dense")
    layers = range(at, gap.stop)
    for number, _, h in through(decoder, batches, layers, decoder.step, begin if at else None, keep, gap.stop, lent):
        store.put(("dense", number), h)
    if merged is not None:
        for number, ids in enumerate(batches):
            before = store.get(("merged", number)).to(decoder.device)
            calls = lent.on(number, merged, decoder.embed(ids)[1])
            store.put((0, number), student.step(merged, before, calls))


def commit_all(student: Student) -> None:
    """What is changed in the student's layers is written to the decoder's, in place: merged layers are whole then."""
    for layer in list(student.changed):
        student.commit(layer)
