"""One step of a comparison, in a process of its own: its memory is its own, and so is its crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowrise.children import ended_after, ends_within
from lowrise.files.siblings import remove
from lowrise.progress import Reporter

_PATIENCE = 20.0  # seconds that an interrupted step has to remove what is half written
_GLANCE = 0.5  # seconds between two looks at what it says


@dataclass(frozen=True)
class StepResult:
    """How a step ended. status: its exit status, or minus the signal that killed it."""

    status: int
    log: Path
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status < 0

    @property
    def reason(self) -> str:
        """One line: what lowrise said at the end, the signal, or the last line of the traceback."""
        if self.killed:
            name = signal.Signals(-self.status).name
            why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return f"killed by {name}{why}"
        lines = [line.strip() for line in _end_of(self.log, 1 << 20).splitlines() if line.strip()]
        said = [line.removeprefix("lowrise: ") for line in lines if line.startswith("lowrise: ")]
        if said:
            return said[-1]
        return f"crashed with exit status {self.status}: {lines[-1] if lines else 'it said nothing'}"


def run_step(
    arguments: list[str], log: Path, title: str, progress: Reporter, heard: Callable[[str], None] | None = None
) -> StepResult:
    """`lowrise ARGUMENTS` as a child; what it says goes to `log`. It never outlives this process.

    heard: given every whole line that it says, soon.
    """
    command = [sys.executable, "-P", "-m", "lowrise.child_process", *arguments]
    began = time.monotonic()
    remove(log)  # a link or a pipe in its place would be followed, or waited for
    with log.open("xb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stream)
        assert process.stdin is not None
        read = 0
        with process.stdin, ended_after(process, _PATIENCE), progress.waiting(title) as show:
            while process.poll() is None:
                read = _hear(log, read, heard)
                show(f"{time.monotonic() - began:,.0f} s  {_last_line(log)}".rstrip())
                ends_within(process, _GLANCE)
            _hear(log, read, heard)
    return StepResult(process.returncode, log, time.monotonic() - began)


def _hear(log: Path, read: int, heard: Callable[[str], None] | None) -> int:
    """Give what is new of the log, whole lines of it; how many bytes are read then."""
    if heard is None:
        return read
    with log.open("rb") as stream:
        stream.seek(read)
        new = stream.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", errors="replace").splitlines():
        heard(line)
    return read + len(whole)


def _last_line(log: Path) -> str:
    lines = _end_of(log, 400).splitlines()
    return lines[-1].strip() if lines else ""


def _end_of(log: Path, most: int) -> str:
    """The last bytes of what a step said, as text."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - most))
        return stream.read(most).decode("utf-8", errors="replace")
