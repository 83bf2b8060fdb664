"""llama.cpp's own converter, called as a child: for folders that came from no GGUF file."""

from __future__ import annotations

import sys
from pathlib import Path

from lowrise.engines.gguf_checks import Type
from lowrise.engines.gguf_child import run_child
from lowrise.errors import InputError


def convert(converter: Path, folder: Path, file: Path, wanted: Type) -> None:
    """Write `file` from `folder`. Raises InputError with what the converter said last.

    A Python file is run by this Python, which has what it imports; anything else by itself.
    """
    path = str(converter.resolve())
    program = [sys.executable, path] if converter.suffix == ".py" else [path]
    ended = run_child([*program, str(folder.resolve()), "--outfile", str(file), "--outtype", wanted])
    if ended.status != 0 or not file.is_file():
        expected, remedy = f"a model that {converter.name} converts", "see what it supports, or take a newer one"
        raise InputError(folder, expected, ended.last_line, remedy)
