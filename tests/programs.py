"""Programs of this project in processes of their own, forked where their imports are made: each would take seconds.

What they start by `subprocess.run` and `check_output` is forked too, where it is a program of this project.
"""

from __future__ import annotations

import gc
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from warm import _FORKS

ROOT = Path(__file__).resolve().parent.parent
COMMAND = str(Path(sys.executable).with_name("lowrise"))
_run = subprocess.run


def run_program(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run of `[python, PROGRAM, ...]`, its output as text."""
    with tempfile.TemporaryDirectory() as name:
        said = [Path(name, "out"), Path(name, "err")]
        process = _FORKS.Process(target=_started, args=(command, *said))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        texts = [file.read_text(encoding="utf-8") if file.exists() else "" for file in said]
        return subprocess.CompletedProcess(command, process.exitcode or 0, *texts)


def _started(command: list[str], out: Path, err: Path) -> None:
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    subprocess.run = _run_or_fork  # type: ignore[assignment]
    subprocess.check_output = lambda *given, **how: (
        _run_or_fork(  # type: ignore[assignment]
            *given, **how, stdout=subprocess.PIPE, check=True
        ).stdout
    )
    gc.freeze()
    os._exit(_program(command))


def _program(command: list[str]) -> int:
    sys.argv = command[1:]
    sys.path.insert(0, str(Path(command[1]).parent))
    status = 0
    try:
        runpy.run_path(command[1], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)  # noqa: T201
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _run_or_fork(command: list[Any], **how: Any) -> subprocess.CompletedProcess[Any]:
    words = [str(word) for word in command]
    if words[0] == COMMAND:
        words.insert(0, sys.executable)
    ours = words[0] == sys.executable and words[1].startswith((COMMAND, str(ROOT)))
    if not ours or "env" in how:
        return _run(command, **how)
    sys.stdout.flush()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            if how.get("stdout") == subprocess.PIPE or how.get("capture_output"):
                os.dup2(said.fileno(), 1)
            os._exit(_program(words))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if how.get("check") and status:
            raise subprocess.CalledProcessError(status, words)
        said.seek(0)
        out = said.read()
    return subprocess.CompletedProcess(words, status, out.decode() if how.get("text") else out)
