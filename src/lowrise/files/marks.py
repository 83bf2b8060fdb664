"""By what an output of lowrise is known, so that --force deletes nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lowrise.errors import OutputError

_LARGEST = 100_000_000  # bytes of a file that is looked into: lowrise writes no larger JSON

# file in a folder that lowrise wrote -> keys that its JSON has
_FOLDERS = {
    Path("lowrise", "plan.json"): {"format"},  # run, apply
    Path("lowrise", "results.json"): {"format", "healing"},  # heal
    Path("comparison.json"): {"format", "rows", "files"},  # compare
    Path("prepared.json"): {"model", "layers", "removed"},  # compare, whose comparison.json was damaged
    Path("observation.json"): {"model", "calibration"},  # observe
}
_FILES = ({"format", "model", "edits"}, {"model", "layers", "parameters"})  # plan, measure


def wrote_folder(folder: Path) -> bool:
    """Whether lowrise made this folder."""
    return any(keys <= _keys(folder / name) for name, keys in _FOLDERS.items())


def wrote_file(file: Path) -> bool:
    """Whether lowrise made this file: a plan, or results."""
    found = _keys(file)
    return any(keys <= found for keys in _FILES)


def is_gguf(file: Path) -> bool:
    """Whether it begins as GGUF files do, which hold no mark of who wrote them."""
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(4) == b"GGUF"
    return False


def is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0


def _keys(file: Path) -> set[str]:
    from lowrise.reading import read_json  # YAML's parser comes with it, and `lowrise --help` is not to wait for that

    try:
        found = read_json(file, OutputError, "what lowrise wrote", "choose another place", _LARGEST, lenient=True)
    except OutputError:
        return set()
    return set(found) if isinstance(found, dict) else set()
