"""`lowrise compare` in processes of its own, as a user has it: killed and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from comparisons import Arguments
from refusals import Main

_PATIENCE = 120.0
_START = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def started(asked: Arguments) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(*changes: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _START, Path(sys.executable).with_name("lowrise"), *asked, *changes]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([*map(str, command)], env=os.environ, **pipes))  # type: ignore[call-overload]
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while not moment():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.01)


def gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_killed_in_the_middle_it_goes_on_without_repeating(
    main: Main,
    ran: list[str],
    asked: Arguments,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """SIGKILL while the second row is at work: its process goes too, the first row is kept as it is."""
    rows = tmp_path / "out" / "rows"
    assert main(*asked, "--presets", "streamline-none", "--remove", "1")[0] == 0
    ran.clear()
    chosen = ["--presets", "streamline-none", "--remove", "1,2"]
    process = started(*chosen)
    until((rows / "streamline-none-2" / "log.txt").exists, process)
    until(
        lambda: bool(psutil.Process(process.pid).children(recursive=True)), process
    )  # the log is made a moment before
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone(children)
    first = (rows / "streamline-none-1" / "row.json").read_bytes()
    assert not (rows / "streamline-none-2" / "row.json").exists()
    assert main(*asked, *chosen)[0] == 0
    assert ran == ["preparing", "streamline-none, 2 layers"]
    assert (rows / "streamline-none-1" / "row.json").read_bytes() == first
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_it_takes_its_row_along_and_says_how_to_go_on(
    main: Main,
    ran: list[str],
    asked: Arguments,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    row = tmp_path / "out" / "rows" / "streamline-none-1"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lowrise.compare.finish_rows", lambda *_: iter(()))
        assert main(*asked, "--presets", "streamline-none")[0] == 0
    assert ran == ["preparing", "the dense model"]
    asked.remove("--quiet")
    process = started("--presets", "streamline-none")
    until((row / "log.txt").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert "the same command goes on from there" in errors
    gone(children)
    assert not (row / "row.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
