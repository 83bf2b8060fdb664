"""What tests of repairs at gaps share: the task, the dense model's states, the student walked by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import tiny
from lowrise.calibration import Windows
from lowrise.edit.context import RepairTask
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from ridges import HELD_OUT


class Heard(Reporter):
    """Remembers what it was told to say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def task_of(student: Student, windows: Windows | None = None) -> RepairTask:
    return RepairTask(student, tiny.windows() if windows is None else windows, HELD_OUT, Heard())


def states_of(decoder: Decoder, windows: Windows) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """h[l] by l, (tokens, d), float64: of the fitted and of the held-out tokens."""
    with torch.no_grad():
        states = {layer: h.double() for layer, h in decoder.states(windows.ids)}
    fitted, held = slice(-HELD_OUT), slice(-HELD_OUT, None)
    return tuple({at: h[part].flatten(0, 1) for at, h in states.items()} for part in (fitted, held))  # type: ignore[return-value]


def walked(decoder: Decoder, kept: list[int], changes: dict[int, Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits of the dense layers `kept`, one by one; the stream is changed in front of layers in `changes`."""
    ids = tiny.ids()
    with torch.no_grad():
        h, calls = decoder.embed(ids)
        for layer in range(len(decoder) + 1):
            if layer in changes:
                h = changes[layer](h)
            if layer in kept:
                h = decoder.step(layer, h, calls)
        return decoder.logits(h, ids)


def drop(decoder: Decoder, kept: list[int]) -> None:
    for layer in reversed(range(len(decoder))):
        if layer not in kept:
            decoder.drop(layer, layer + 1)
