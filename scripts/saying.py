"""Run a command that is silent for long, and say every few seconds that it still goes on.

    python scripts/saying.py COMMAND ...

Its exit status is the command's. It needs nothing but Python, for what it waits for may be the environment itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

EVERY = 7.0  # seconds


def wait(command: list[str], every: float = EVERY) -> int:
    """The command's exit status, once it has ended."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait(every)
        except subprocess.TimeoutExpired:
            name = " ".join([Path(command[0]).name, *command[1:2]])
            print(f"{name}: {time.monotonic() - began:,.0f} s", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            process.wait()
            return 130


if __name__ == "__main__":
    if sys.argv[1:2] in ([], ["--help"]):
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
            ["--help"]
        )
    sys.exit(wait(sys.argv[1:]))
