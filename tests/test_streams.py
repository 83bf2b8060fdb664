"""stdout and stderr that are closed, full, read by nobody, or ASCII: results are written, signals end the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Streams = Callable[..., "subprocess.CompletedProcess[bytes]"]

# A command that writes a file and prints, with names that ASCII lacks; `stop` ends by the signal it sends itself.
_COMMAND = """
import os, signal, sys, types
from pathlib import Path
sys.modules["lowrise.pipeline"] = types.SimpleNamespace(measure=None)  # the libraries are there
from lowrise import cli
from lowrise.files import write_file
from lowrise.progress import Reporter

@cli.app.command()
def say(out: Path, stop: int = 0):
    report = Reporter()
    for _ in range(3):
        report.say("läuft …")
    report.warn("achtung")
    with out.with_name("data").open("w") as data:
        if stop:
            os.kill(os.getpid(), stop)
        sys.stderr.write("not into the data\\n")
    write_file(out, "result")
    for _ in range(20_000):
        cli.typer.echo("größer × kleiner")

sys.argv[0] = "lowrise"
cli.main()
"""


@pytest.fixture
def said(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """Run it under a shell that redirects as it is told."""

    def run(redirect: str, *options: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
        script = tmp_path_factory.mktemp("command") / "command.py"
        script.write_text(_COMMAND, encoding="utf-8")
        words = [sys.executable, str(script), "say", str(tmp_path / "out"), *map(str, options)]
        return subprocess.run(
            ["bash", "-c", f'set -o pipefail; "$@" {redirect}', "bash", *words],
            capture_output=True,
            timeout=100,
            env={**os.environ, **environment},
        )

    return run


def written(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", ">&-", ">&- 2>&-", "0<&- >&- 2>&-"])
def test_what_cannot_be_said_ends_no_run(said: Streams, tmp_path: Path, redirect: str) -> None:
    """A closed stdout is one that nobody wants; no file of the run takes the number of a closed stream."""
    ended = said(redirect)
    assert ended.returncode == 0
    assert (tmp_path / "out").read_text() == "result"
    assert (tmp_path / "data").read_text() == ""
    assert written(tmp_path) == ["data", "out"]
    if ">&-" not in redirect.split():
        assert ended.stdout.decode().count("größer × kleiner\n") == 20_000


@pytest.mark.parametrize("redirect", [">/dev/full", "| head -1"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_results_that_cannot_be_printed_are_exit_1(said: Streams, tmp_path: Path, redirect: str, encoding: str) -> None:
    ended = said(redirect, PYTHONIOENCODING=encoding)
    assert ended.returncode == 1
    lines = ended.stderr.decode().splitlines()
    assert lines[-1].startswith("lowrise: stdout: ")
    assert "all files are whole" in lines[-1]
    assert b"Traceback" not in ended.stderr
    assert (tmp_path / "out").read_text() == "result"


@pytest.mark.parametrize("redirect", ["", "2>&-", "2>/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_it_with_its_number(said: Streams, tmp_path: Path, redirect: str, number: int) -> None:
    ended = said(redirect, "--stop", int(number))
    assert ended.returncode == 128 + number
    assert b"Traceback" not in ended.stderr
    assert (tmp_path / "data").read_text() == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_an_ascii_locale(said: Streams, tmp_path: Path, environment: dict[str, str]) -> None:
    ended = said("", **environment)
    assert ended.returncode == 0
    assert ended.stderr.isascii()
    assert rb"l\xe4uft \u2026" in ended.stderr
    assert (tmp_path / "out").read_text() == "result"


@pytest.mark.parametrize("arguments", [["--help"], ["presets", "--json"]])
def test_help_and_lists_too(arguments: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("lowrise")), *arguments]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=100)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (1, 1)
    whole = subprocess.run(command, capture_output=True, timeout=100, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (whole.returncode, whole.stderr) == (0, b"")
    if "--json" in arguments:
        assert json.loads(whole.stdout)
