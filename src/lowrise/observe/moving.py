"""Bytes on their way between an accelerator and a file, while the accelerator goes on computing.

A copy to pinned memory is queued behind what the device computes, and a thread waits for it and writes; the other way
round, what is likely to be asked for next is read ahead into pinned memory. On CPU nothing is gained by that: all is
done at once, in the thread that asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

_WITH_STREAMS = ("cuda", "xpu")
_IN_FLIGHT = 4  # writes that may wait: each holds a state in memory

Made = TypeVar("Made")


class Mover:
    """Does what it is asked to in that order: at once, or, from the first tensor of an accelerator on, in a thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._writes: deque[Future[None]] = deque()

    @property
    def overlaps(self) -> bool:
        return self._pool is not None

    def overlap(self) -> None:
        """In a thread from now on."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="lowrise-states")

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """On the CPU; in pinned memory where an accelerator is to read or write it."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.overlaps and torch.accelerator.is_available())

    def to_memory(self, h: Tensor) -> Callable[[], Tensor]:
        """The copy of `h` on the CPU, contiguous, begun now; what is returned waits for it."""
        h = h.detach()
        if h.device.type in _WITH_STREAMS:
            self.overlap()
        if not self.overlaps:
            copied = h.contiguous().cpu()
            return lambda: copied
        copied = self.empty(h.shape, h.dtype)
        copied.copy_(h, non_blocking=True)
        if h.device.type not in _WITH_STREAMS:
            return lambda: copied
        event = torch.get_device_module(h.device).Event()
        event.record(torch.get_device_module(h.device).current_stream(h.device))

        def waited() -> Tensor:
            event.synchronize()
            return copied

        return waited

    def write(self, job: Callable[[], None]) -> None:
        """Raises what an earlier one raised, where that was not known yet."""
        if self._pool is None:
            job()
            return
        while len(self._writes) >= _IN_FLIGHT:
            self._writes.popleft().result()
        self._writes.append(self._pool.submit(job))

    def read(self, job: Callable[[], Made]) -> Future[Made]:
        """Behind all that was written before."""
        if self._pool is not None:
            return self._pool.submit(job)
        done: Future[Made] = Future()
        done.set_result(job())
        return done

    def take(self, read: Future[Made]) -> Made:
        """What was read. Raises what a write before it raised, too."""
        found = read.result()
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()
        return found

    def wait(self) -> None:
        """Until all is written. Raises as `write` does."""
        while self._writes:
            self._writes.popleft().result()

    def close(self) -> None:
        """What is not done yet is left."""
        self._writes.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
