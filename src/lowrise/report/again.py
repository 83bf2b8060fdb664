"""The command on a page that makes its folder again."""

from __future__ import annotations

import shlex
from pathlib import Path

from lowrise.results import Results


def again(results: Results, command: str, record: str, given: str = "") -> str:
    """What makes the same folder again, from wherever it is run: texts and models are named from where they were.

    command: up to the file `record` of the folder's records. given: what follows it.
    """
    there = Path(results.directory)
    folder = there / (results.model or "shallower")
    line = f"lowrise {command} {shlex.quote(str(folder / 'lowrise' / record))}{given}"
    line += f" --out {shlex.quote(f'{folder}-again')}"
    return f"cd {shlex.quote(str(there))}\n{line}" if results.directory else line
