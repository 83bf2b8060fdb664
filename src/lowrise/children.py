"""Processes that this one starts: none outlives it where it ends in order."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ended_after(process: subprocess.Popen[Any], patience: float) -> Iterator[None]:
    """However the block ends, `process` has ended then. One that is still at work is asked to stop (SIGTERM), and
    killed `patience` seconds later.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            if not ends_within(process, patience):
                process.kill()
                process.wait()


def ends_within(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Wait so long at most; whether it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
