"""State on disk, each file with the checksum of what it holds: a damaged one is never trusted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lowrise.errors import OutputError
from lowrise.files.single import write_file
from lowrise.reading import read_json

_SEAL = "sha256"


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_file(file, json.dumps({**state, _SEAL: _checksum(state)}, indent=2) + "\n")


def read_state(file: Path) -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is nothing, or nothing to be trusted (`is_damaged`)."""
    found = read_object(file)
    if found is None:
        return None
    seal = found.pop(_SEAL, None)
    return found if seal == _checksum(found) else None


def read_object(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none that can be read. The numbers of a ruin may be infinite."""
    try:
        found = read_json(file, OutputError, "JSON of lowrise", "begin anew", lenient=True)
    except OutputError:
        return None
    return found if isinstance(found, dict) else None


def is_damaged(file: Path) -> bool:
    """Whether something is there that is not what `write_state` wrote."""
    return (file.exists() or file.is_symlink()) and read_state(file) is None


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
