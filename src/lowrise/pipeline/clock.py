"""Stages: their seconds, and what is done about memory around each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lowrise.cost.forecast import Forecast
from lowrise.errors import ROOM, RoomError, reason
from lowrise.heap import give_back
from lowrise.model.batching import is_out_of_memory, telling
from lowrise.progress import Reporter
from lowrise.report import words

# What is trained is in float32 whatever `--dtype` says, with its gradients and moments.
_REMEDIES = {
    "healing": "free memory of the device, say `heal: {checkpointing: true}` in a recipe, or train less: --train lora"
}
_TOLD = 60.0  # seconds that are left: of fewer nothing is said


@dataclass
class Clock:
    """Seconds by stage, with those of earlier attempts at the same run. progress: shows the stage that goes on.

    forecast: once there is one, what is left is said as each stage begins.
    """

    progress: Reporter
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
    _open: dict[str, float] = field(default_factory=dict)  # stages that go on, and since when
    forecast: Forecast | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._open[name] = time.perf_counter()
        if left := self.left():
            self.progress.say(f"{name}: {left}")
        try:
            with self.progress.stage(name), telling(self.progress.warn), room_for(name):
                yield
        finally:
            began = self._open.pop(name)
            give_back()
        passed = time.perf_counter() - began
        self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 3)
        if self.forecast is not None:
            self.forecast.end(name, passed)

    def left(self) -> str:
        """`about 12 min left in all`; nothing where that is not known, or short."""
        if self.forecast is None or not self._open:
            return ""
        name, began = next(reversed([*self._open.items()]))
        left = self.forecast.left(name, time.perf_counter() - began, self.progress.left_of(name))
        return f"about {words.seconds(left)} left in all" if left >= _TOLD else ""

    def so_far(self) -> dict[str, float]:
        """As `total`, with what has passed of the stages that go on."""
        now = time.perf_counter()
        passed = {name: round(self.seconds.get(name, 0.0) + now - began, 3) for name, began in self._open.items()}
        return {**self.total(), **passed}

    def go_on(self, before: dict[str, float]) -> None:
        """Count what an earlier attempt took, of which `before` is the last `so_far`."""
        self._began -= before.get("total", 0.0)
        for name, seconds in before.items():
            if name != "total":
                self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._began, 3)}


@contextmanager
def room_for(stage: str) -> Iterator[None]:
    """Raises RoomError in the place of what torch raises when there is no more memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        remedy = _REMEDIES.get(stage, ROOM)
        raise RoomError(f"{stage} ran out of memory ({reason(error)})", remedy) from error
