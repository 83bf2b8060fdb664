"""Measurements that need not be made again: one JSON file each, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.errors import OutputError
from lowrise.files import write_file
from lowrise.files.siblings import remove
from lowrise.progress import Reporter
from lowrise.reading import read_json

FORMAT = 1  # of an entry; another one is never read
_NAME = re.compile(r"[0-9a-f]{64}\.json")
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.json\..*\.partial")  # what a killed process leaves


def cache_folder() -> Path:
    """`LOWRISE_CACHE`, else `lowrise` in `XDG_CACHE_HOME`, else `~/.cache/lowrise`."""
    if named := os.environ.get("LOWRISE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowrise"


@dataclass(frozen=True)
class Cache:
    """Values by key. A key holds all that decides the value, so that a wrong hit is impossible.

    An entry that does not parse, or whose checksum does not fit, is not trusted: it is measured again, with a word.
    A folder that cannot be written costs the entries and a warning, never the measurement.
    """

    folder: Path
    progress: Reporter

    def read(self, key: dict[str, Any]) -> Any | None:
        """The value kept under `key`, or None."""
        file = self._file(key)
        try:
            entry = _entry(file)
        except OutputError as error:
            if file.exists():
                self._distrust(file, str(error.__cause__))
            return None
        if not isinstance(entry, dict) or entry.get("key") != key:
            self._distrust(file, "it is of another measurement")
            return None
        if entry.get("sha256") != _checksum(key, entry.get("value")):
            self._distrust(file, "its checksum does not fit")
            return None
        return entry["value"]

    def write(self, key: dict[str, Any], value: Any, about: dict[str, Any]) -> None:
        """Keep `value` (JSON) whole or not at all; `about` is what `lowrise cache` shows of it."""
        entry = {"key": key, "about": about, "value": value, "sha256": _checksum(key, value)}
        try:
            write_file(self._file(key), json.dumps(entry) + "\n")
        except OutputError as error:
            self.progress.say(f"this measurement is not kept: {error}")  # the result itself is whole

    def _file(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{digest({'format': FORMAT, **key})}.json"

    def _distrust(self, file: Path, reason: str) -> None:
        self.progress.warn(f"the kept measurement {file} is not trusted ({reason}): measured again")


def digest(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys; functions count as their source, other objects as their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_text).encode()).hexdigest()


def _text(value: Any) -> str:
    return inspect.getsource(value) if inspect.isfunction(value) else str(value)


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """What is kept: file, bytes, and what was measured of which model, oldest first."""
    files = [file for file in folder.glob("*.json") if _NAME.fullmatch(file.name)] if folder.is_dir() else []
    for file in sorted(files, key=lambda file: file.lstat().st_mtime):
        about: dict[str, Any] = {}
        with contextlib.suppress(OutputError):
            about = _about(_entry(file))
        about = about or {"what": "damaged: will be measured again"}
        yield {"file": str(file), "bytes": file.lstat().st_size, **about}


def _entry(file: Path) -> Any:
    # a measurement that overflowed is kept as what it is
    return read_json(file, OutputError, "a measurement", "measure again", lenient=True)


def _about(entry: Any) -> dict[str, str]:
    """What was measured of which model; empty where the entry does not say it."""
    about = entry.get("about") if isinstance(entry, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("what"), str):
        return {}
    return {key: value for key, value in about.items() if key not in ("file", "bytes") and isinstance(value, str)}


def clear_entries(folder: Path) -> int:
    """Delete what lowrise has kept, and nothing else; returns how many measurements that were."""
    removed = 0
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _NAME.fullmatch(file.name) or _PARTIAL.fullmatch(file.name):
            remove(file)
            removed += not file.name.startswith(".")
    return removed


def _checksum(key: dict[str, Any], value: Any) -> str:
    return digest({"key": key, "value": value})
