"""`lowrise` in a process of its own, without the seconds that imports take: forked from one that has made them.

Signals, exit statuses and what the kernel refuses are those of any process. What happens while libraries are still
being imported needs a real start.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from multiprocessing.util import get_temp_dir

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["lowrise.pipeline"])
# Made now, and not where the TMPDIR of the first test that forks points: a socket's path has 107 bytes at most.
get_temp_dir()


class Warm:
    """`lowrise ARGUMENTS`; poll, wait, send_signal and kill as of subprocess.Popen.

    largest_file: bytes that it may write into one file, as on a disk that fills.
    """

    def __init__(
        self,
        arguments: list[object],
        out: int,
        err: int,
        environment: Mapping[str, str] | None = None,
        largest_file: int | None = None,
    ) -> None:
        given = ([*map(str, arguments)], _Ends(out, err), {**os.environ, **(environment or {})}, largest_file)
        self._process = _FORKS.Process(target=_run, args=given, daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it did not end"
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


class _Ends:
    """Standard output and error on their way to the fork."""

    def __init__(self, out: int, err: int) -> None:
        self.out, self.err = out, err

    def __getstate__(self) -> tuple[object, object]:
        return DupFd(self.out), DupFd(self.err)

    def __setstate__(self, ends: tuple[DupFd, DupFd]) -> None:
        self.out, self.err = (end.detach() for end in ends)


def _run(arguments: list[str], ends: _Ends, environment: dict[str, str], largest_file: int | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a background shell may have set it to "ignored"
    os.dup2(ends.out, 1)
    os.dup2(ends.err, 2)
    os.environ.update(environment)
    gc.freeze()  # see conftest.py
    tempfile.tempdir = None  # found anew, in this environment
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["lowrise", *arguments]
    from lowrise import cli

    cli.main()
