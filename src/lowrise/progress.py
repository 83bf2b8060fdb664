"""What the user sees while a run works: progress, messages and signs of life, all on stderr.

On a terminal bars and stages show the seconds that pass. Where none can be drawn a line says every so often what is
going on; a thread says it when the work itself is silent.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lowrise.errors import printable

# Seconds of silence after which a line says what is going on: at most 10 are promised, with room for a machine that is
# busy with other things.
_LINE_EVERY = 7.0
_FEWEST_STEPS = 2  # of a bar, that say how long the others take


class Stage:
    """Something that goes on, and since when."""

    def __init__(self, name: str) -> None:
        self.name, self._began = name, time.perf_counter()

    def line(self) -> str:
        return f"{self.name}: {time.perf_counter() - self._began:,.0f} s"

    def __rich__(self) -> Text:
        """Drawn anew several times a second, so that the seconds pass."""
        return Text(self.line())


class Bar:
    """One running bar. `advance` takes tokens done and, while training, what to show beside the rate.

    advanced: told of every step.
    """

    def __init__(self, progress: Progress, task: TaskID, advanced: Callable[[], None]) -> None:
        self._progress, self._task, self._advanced = progress, progress.tasks[task], advanced
        self._began, self._tokens, self._text, self._made = time.perf_counter(), 0, "", 0

    def advance(self, tokens: int, note: str = "", steps: int = 1) -> None:
        """tokens: 0 for steps that were not made here and now."""
        self._tokens += tokens
        self._made += steps if tokens else 0
        rate = self._tokens / max(time.perf_counter() - self._began, 1e-9)
        self._text = f"{note}  {rate:,.0f} tokens/s".strip()
        self._progress.update(self._task.id, advance=steps, note=self._text)
        self._advanced()

    @property
    def name(self) -> str:
        return self._task.description

    @property
    def done(self) -> int:
        return int(self._task.completed)

    @property
    def total(self) -> int:
        return int(self._task.total or 0)

    @property
    def left(self) -> float | None:
        """Seconds, by the steps made so far; None of too few."""
        passed = time.perf_counter() - self._began
        return passed / self._made * (self.total - self.done) if self._made >= _FEWEST_STEPS else None

    @property
    def note(self) -> str:
        """What is shown beside the bar."""
        return self._text

    def line(self) -> str:
        passed = f"{time.perf_counter() - self._began:,.0f} s"
        return f"{self.name}: {self.done:,} of {self.total:,}  {self.note}  {passed}".replace("    ", "  ")


class Reporter:
    """Messages, warnings, stages and bars. `quiet` silences all but warnings, `muted` these too."""

    def __init__(self, quiet: bool = False, muted: bool = False) -> None:
        self.quiet = quiet or muted
        # this stderr, also while a library's is being silenced
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=muted)
        self.warnings: list[str] = []
        self._going_on: list[Stage | Bar] = []
        self.left: Callable[[], str] | None = None  # what is left of the whole, in words, where that is known
        self.foretold = 0.0  # seconds of the whole command, as they were said before it began; 0 where none were
        self._drawn = 0  # bars and stages on the terminal that show the seconds themselves
        self._said = time.perf_counter()
        self._one_line = threading.Lock()

    def left_of(self, name: str) -> float | None:
        """Seconds that a bar of this name will go on, by its own steps; None where there is no such bar."""
        return next((one.left for one in [*self._going_on] if isinstance(one, Bar) and one.name == name), None)

    def say(self, text: str) -> None:
        if not self.quiet:
            self._said = time.perf_counter()
            self.console.print(printable(text), markup=False)

    def begin(self, text: str) -> None:
        """Said on a terminal alone: in a log a line comes when there is something to tell."""
        if self._draws:
            self.say(text)

    def warn(self, text: str) -> None:
        """Shown even when quiet, and kept so that results can repeat it."""
        self.warnings.append(text)
        self.console.print(printable(f"warning: {text}"), markup=False, style="yellow")

    def alarm(self, text: str) -> None:
        """Shown even when quiet, for what results themselves tell already: the last word before them."""
        self.console.print(printable(f"warning: {text}"), markup=False, style="bold red")

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Around a whole command: no part of it is silent for long, whatever holds up its own thread."""
        if self.quiet:
            yield
            return
        over = threading.Event()

        def watch() -> None:
            while not over.wait(min(1.0, _LINE_EVERY / 4)):
                try:
                    self._sign_of_life()
                except OSError:  # nobody reads stderr any more, which the work itself will find out
                    return

        watching = threading.Thread(target=watch, name="signs of life", daemon=True)
        watching.start()
        self._going_on.append(Stage(name))
        try:
            yield
        finally:
            over.set()
            watching.join()
            self._going_on.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the work that has no steps of its own, or whose bars are drawn within it."""
        stage = Stage(name)
        with self._shown(stage):
            if not self._draws or self._drawn:
                yield
                return
            with self._drawing(), self.console.status(stage):
                yield

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """For work that another process does; call what it yields with a note: a turning sign, or lines in a log."""
        if not self._draws:
            yield lambda note: self._sign_of_life(f"{title}: {note}")
            return
        with self._drawing(), self.console.status(escape(printable(title))) as status:
            yield lambda note: status.update(escape(printable(f"{title}  {note}")[: self.console.width - 4]))

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console, disable=not self._draws) as progress:
            bar = Bar(progress, progress.add_task(title, total=total, note=""), self._sign_of_life)
            with self._drawing() if self._draws else nullcontext(), self._shown(bar):
                yield bar

    @property
    def _draws(self) -> bool:
        return self.console.is_terminal and not self.quiet

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While something on the terminal shows the seconds itself."""
        self._drawn += 1
        try:
            yield
        finally:
            self._drawn -= 1
            self._said = time.perf_counter()

    @contextmanager
    def _shown(self, one: Stage | Bar) -> Iterator[None]:
        self._going_on.append(one)
        try:
            yield
        finally:
            self._going_on.remove(one)

    def _sign_of_life(self, line: str | None = None) -> None:
        """A line, by default of what goes on innermost, if nothing was said or drawn for a while."""
        with self._one_line:
            going_on = [*self._going_on]
            if self._drawn or time.perf_counter() - self._said < _LINE_EVERY or not (line or going_on):
                return
            left = "" if self.left is None else self.left()
            self.say("; ".join(filter(None, (line or going_on[-1].line(), left))))
