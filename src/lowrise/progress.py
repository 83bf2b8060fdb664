"""What the user sees while a run works: progress and messages, all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lowrise.errors import printable

_LINE_EVERY = 60.0  # seconds between two lines of a bar, or of what is waited for, where there is no terminal


class _Minute:
    """Whether another minute has passed. now: seconds of one clock."""

    def __init__(self, now: float) -> None:
        self._said = now

    def passed(self, now: float) -> bool:
        """True once a minute; the next one begins then."""
        if now - self._said < _LINE_EVERY:
            return False
        self._said = now
        return True


class Bar:
    """One running bar. `advance` takes tokens done and, while training, what to show beside the rate.

    say: where no bar can be drawn (a log file), a line a minute, so that hours do not pass in silence.
    """

    def __init__(self, progress: Progress, task: TaskID, say: Callable[[str], None] | None) -> None:
        self._progress, self._task, self._say = progress, progress.tasks[task], say
        self._began, self._tokens = time.perf_counter(), 0
        self._minute = _Minute(self._began)

    def advance(self, tokens: int, note: str = "", steps: int = 1) -> None:
        self._tokens += tokens
        now = time.perf_counter()
        text = f"{note}  {self._tokens / max(now - self._began, 1e-9):,.0f} tokens/s".strip()
        self._progress.update(self._task.id, advance=steps, note=text)
        if self._say is not None and self._minute.passed(now):
            done, total = int(self._task.completed), int(self._task.total or 0)
            self._say(f"{self._task.description}: {done:,} of {total:,}  {text}")


class Reporter:
    """Messages, warnings and bars. `quiet` silences all but warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        # this stderr, also while a library's is being silenced
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Shown even when quiet, and kept so that results can repeat it."""
        self.warnings.append(text)
        self.console.print(printable(f"warning: {text}"), markup=False, style="yellow")

    def alarm(self, text: str) -> None:
        """Shown even when quiet, for what results themselves tell already: the last word before them."""
        self.console.print(printable(f"warning: {text}"), markup=False, style="bold red")

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """For work that another process does; call what it yields with a note: a turning sign, or a line a minute."""
        if self.quiet:
            yield lambda _note: None
            return
        if not self.console.is_terminal:
            minute = _Minute(time.perf_counter())
            yield lambda note: self.say(f"{title}: {note}") if minute.passed(time.perf_counter()) else None
            return
        with self.console.status(escape(printable(title))) as status:
            yield lambda note: status.update(escape(printable(f"{title}  {note}")[: self.console.width - 4]))

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
        )
        drawn = self.console.is_terminal and not self.quiet
        with Progress(*columns, console=self.console, disable=not drawn) as progress:
            task = progress.add_task(title, total=total, note="")
            yield Bar(progress, task, None if drawn else self.say)
