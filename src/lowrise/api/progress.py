"""What is seen of long work from Python: bars on a terminal and in a notebook, events for a function, else nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lowrise.model.source import silenced_transformers
from lowrise.progress import Bar, Reporter


@dataclass(frozen=True)
class Event:
    """One step of the work, or one message.

    stage: what goes on ("calibration", "writing", "search", ...). done: of `total` steps (windows, layers, trials);
    total: None where a stage has no steps. note: a message, or what stands beside a bar. warning: whether the note is
    one.

    >>> event = lowrise.Event("search", 2, 8, "divergence 0.3")
    >>> f"{event.stage}: {event.done} of {event.total}"
    'search: 2 of 8'
    """

    stage: str
    done: int
    total: int | None
    note: str = ""
    warning: bool = False


Progress = Callable[[Event], object] | bool | None
"""A function that is told every event; True: bars; False: nothing; None: bars on a terminal and in a notebook."""


class LowriseWarning(UserWarning):
    """What lowrise warns of where nothing is shown: by `warnings`, so that a filter decides what becomes of it."""


class EventReporter(Reporter):
    """Tells a function, in place of stderr."""

    def __init__(self, tell: Callable[[Event], object]) -> None:
        super().__init__(quiet=True)
        self._tell = tell

    def say(self, text: str) -> None:
        self._tell(Event(self._stage, 0, None, text))

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.alarm(text)

    def alarm(self, text: str) -> None:
        self._tell(Event(self._stage, 0, None, text, warning=True))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with super().stage(name):
            self._tell(Event(name, 0, None))
            yield

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        def tell(note: str) -> None:
            self._tell(Event(title, 0, None, note))

        yield tell

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        with super().bar(title, total) as bar:
            self._sign_of_life()
            yield bar

    def _sign_of_life(self, line: str | None = None) -> None:
        """Called by a bar at every step."""
        going_on = self._going_on[-1] if self._going_on else None
        if isinstance(going_on, Bar):
            self._tell(Event(going_on.name, going_on.done, going_on.total, line or going_on.note))

    @property
    def _stage(self) -> str:
        return self._going_on[-1].name if self._going_on else ""


@contextmanager
def reporting(progress: Progress, name: str) -> Iterator[Reporter]:
    """What a function of the API reports with. name: of the function, for signs of life."""
    reporter = _reporter(progress)
    with silenced_transformers(), reporter.working(name):
        yield reporter


def _reporter(progress: Progress) -> Reporter:
    if callable(progress):
        return EventReporter(progress)
    if progress is not False and _in_notebook():
        bars = _notebook_bars()
        return EventReporter(warn_only if bars is None else bars)
    if progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        return Reporter()
    return EventReporter(warn_only)


def warn_only(event: Event) -> None:
    """Silence, but for warnings."""
    if event.warning:
        warnings.warn(event.note, LowriseWarning, stacklevel=2)


class NotebookBars:
    """A bar of tqdm for what has steps, the newest in place of the one before; messages are left out.

    make: `tqdm.auto.tqdm`.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._bar: Any = None
        self._shown: tuple[str, int | None] | None = None

    def __call__(self, event: Event) -> None:
        warn_only(event)
        if event.total is None:
            return
        if self._shown != (event.stage, event.total) or event.done < self._bar.n:
            self._close()
            self._bar = self._make(total=event.total, desc=event.stage, leave=False)
            self._shown = (event.stage, event.total)
        self._bar.set_postfix_str(event.note, refresh=False)
        self._bar.update(event.done - self._bar.n)
        if event.done >= event.total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = self._shown = None


def _notebook_bars() -> NotebookBars | None:
    """None where tqdm, which transformers brings, is not there."""
    try:
        return NotebookBars(import_module("tqdm.auto").tqdm)
    except ImportError:
        return None


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter: IPython is there already then, and never imported for this."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
