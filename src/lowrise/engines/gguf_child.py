"""A program that is waited for: what it printed, and no process left behind, even of a parent that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowrise.children import ended_after

_ON_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG, https://man7.org/linux/man-pages/man2/prctl.2.html
_PATIENCE = 5.0  # seconds from asking it to stop to killing it


@dataclass(frozen=True)
class ChildResult:
    """status: its exit status, or minus the signal that killed it."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """Of what it said last: an error, if one of its last lines is about one."""
        lines = [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        about = [line for line in lines[-40:] if "error" in line.lower()]
        if about or lines:
            return (about or lines)[-1]
        return f"nothing said, exit status {self.status}"


def run_child(command: Sequence[str], given: str = "", more: Mapping[str, str] | None = None) -> ChildResult:
    """given: its stdin. more: environment variables. Raises OSError where there is no such program."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **(more or {})},
        preexec_fn=_tied() if sys.platform == "linux" else None,
    )
    with ended_after(process, _PATIENCE):
        out, err = process.communicate(given)
    return ChildResult(process.returncode, out, err)


def _tied() -> Callable[[], object]:
    """What a child calls before it begins, so that it ends with this process. The library is loaded here: in the child
    nothing may be waited for.
    """
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_ON_DEATH_OF_PARENT, signal.SIGKILL)
