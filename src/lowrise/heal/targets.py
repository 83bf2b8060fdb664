"""Where stored teachers keep what a dense model says of tokens: shown and cleared by `lowrise cache`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowrise.errors import OutputError
from lowrise.files.siblings import remove
from lowrise.headers import safetensors_header

TARGETS = "targets"  # in the cache folder; in it one folder for each set of tokens and dense model
_FOLDER = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"targets-\d{5,}\.safetensors")
_PARTIAL = re.compile(r"\.targets-\d{5,}\.safetensors\.[0-9a-f]{8}\.partial")  # what a killed process leaves


def stored_teachers(cache: Path) -> Iterator[dict[str, Any]]:
    """What is kept: folder, bytes, and of how many tokens, oldest first."""
    for folder in sorted(_folders(cache), key=lambda one: one.lstat().st_mtime):
        files = [file for file in folder.iterdir() if _FILE.fullmatch(file.name)]
        tokens = sum(map(_tokens, files))
        size = sum(file.lstat().st_size for file in folder.iterdir() if _is_own(file))
        yield {"file": str(folder), "bytes": size, "what": f"stored teacher, {tokens:,} tokens"}


def clear_teachers(cache: Path) -> int:
    """Delete what stored teachers have kept, and nothing else; returns how many there were."""
    removed = 0
    for folder in _folders(cache):
        for file in filter(_is_own, sorted(folder.iterdir())):
            remove(file)
        removed += 1
        _remove_empty(folder)
    _remove_empty(cache / TARGETS)
    return removed


def _folders(cache: Path) -> list[Path]:
    place = cache / TARGETS
    found = sorted(place.iterdir()) if place.is_dir() else []
    return [one for one in found if _FOLDER.fullmatch(one.name) and one.is_dir() and any(map(_is_own, one.iterdir()))]


def _is_own(file: Path) -> bool:
    return bool(_FILE.fullmatch(file.name) or _PARTIAL.fullmatch(file.name))


def _tokens(file: Path) -> int:
    with contextlib.suppress(OutputError, KeyError):
        return int(safetensors_header(file, OutputError)["rest"]["shape"][0])
    return 0


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or something else lies in it
        folder.rmdir()
