"""The command line: options into a recipe, one call into the pipeline, results out. Imports nothing heavy."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress

import typer

# The modules add their commands as they are imported: in the order of `--help`.
# isort: off
from lowrise.cli import making, measuring, exporting, sending, showing

# isort: on
from lowrise.cli.program import app
from lowrise.errors import LowriseError, one_line
from lowrise.heap import map_large_blocks
from lowrise.options import UsageError
from lowrise.ranks import is_first
from lowrise.streams import keep_streams

__all__ = ["app", "exporting", "main", "making", "measuring", "sending", "showing"]

_stopped: list[int] = []  # the exit status of a signal that came
# Windows has no SIGHUP
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> None:
    """The console script. Exit 0 done, 2 bad usage or input (one line), 130 interrupted, 1 anything else.

    1 too where what was asked for is written, but stdout does not take what is to be printed.
    """
    for number in _STOPPING:
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    keep_streams()
    map_large_blocks()
    _stopped.clear()
    command = typer.main.get_command(app)
    try:
        status = command.main(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(status)
    except LowriseError as error:
        if is_first() and not _stopped:
            typer.echo(f"lowrise: {one_line(str(error))}", err=True)
        sys.exit(_stopped[0] if _stopped else error.exit_status)
    except UsageError as error:
        context = error.ctx  # type: ignore[attr-defined]
        named = "lowrise" if context is None else context.command_path
        said = one_line(error.format_message(), 450).rstrip(".")  # type: ignore[attr-defined]
        typer.echo(f"lowrise: {said}; see `{named} --help`", err=True)
        sys.exit(2)
    except Exception:
        if not _stopped:
            raise
        sys.exit(_stopped[0])  # a library made another exception of the one that `_stop` raised in it


def _stop(number: int, _frame: object) -> None:
    """End in order, removing what is half written; a second signal must not break into that."""
    for other in _STOPPING:
        signal.signal(other, signal.SIG_IGN)
    with suppress(OSError):  # closed, full, or of a terminal that is gone
        os.write(2, b"lowrise: interrupted\n")
    ready = {
        "lowrise.pipeline": "measure",
        "lowrise.pipeline.healing": "heal",
        "lowrise.compare": "compare",
        "lowrise.engines.gguf_out": "export",
        "lowrise.report.page": "write_report",
    }
    if not any(hasattr(sys.modules.get(module), name) for module, name in ready.items()):
        # libraries are still being imported, some of which do not bear an exception there; nothing is written yet
        os._exit(128 + number)
    _stopped.append(128 + number)
    sys.exit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An exception that a `__del__` cannot pass on. If it is the one of `_stop`, it is raised anew a moment later."""
    if isinstance(lost.exc_value, SystemExit) and lost.exc_value.code is not None:
        code = lost.exc_value.code
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: sys.exit(code))
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        else:  # Windows
            signal.signal(signal.SIGINT, lambda *_: sys.exit(code))
            threading.Timer(0.001, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)
