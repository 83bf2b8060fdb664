"""Weight files before and after loading: whole, safe, finite; and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import torch

from lowrise.errors import ModelError
from lowrise.model.formats import Stored

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAFE, _OPENED_PICKLES = "model.safetensors", "pytorch_model.bin"


def check_weight_files(folder: Path, source: str, allow_pickle: bool, named: object = None) -> list[Path]:
    """The weight files of a folder that transformers loads, sorted: others may lie beside them.

    named: config.json's `transformers_weights`, which goes before all.
    Raises ModelError when there are none, only pickled ones, a shard is missing, or a file is cut short.
    """
    weights = _loaded(folder, [str(named)] if named else [_SAFE, f"{_SAFE}.index.json"])
    for file in weights:
        _check_safetensors(file)
    if weights:
        return weights
    pickled = sorted(file for pattern in _PICKLED for file in folder.glob(pattern))
    opened = _loaded(folder, [_OPENED_PICKLES, f"{_OPENED_PICKLES}.index.json"])
    if opened and allow_pickle:
        return opened
    if pickled and allow_pickle:
        raise ModelError(source, f"weights called {_SAFE} or {_OPENED_PICKLES}", pickled[0].name, "rename it")
    if pickled:
        raise ModelError(
            source,
            "safetensors weights",
            f"only pickled ones ({pickled[0].name}), which can run code when opened",
            "convert them to safetensors, or say --allow-pickle if you trust their author",
        )
    others = sorted(folder.glob("*.safetensors"))
    found = f"none of that name ({others[0].name})" if others else "no weight file"
    raise ModelError(source, f"safetensors weights ({_SAFE})", found, "check the folder")


def _loaded(folder: Path, names: list[str]) -> list[Path]:
    """The files that the first of `names` there is stands for: itself, or the shards that it lists as an index."""
    name = next((name for name in names if (folder / name).is_file()), None)
    if name is None:
        return []
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(folder, "weights inside the folder", name, "mend transformers_weights in config.json")
    return _shards(folder / name) if name.endswith(".index.json") else [folder / name]


def _shards(index: Path) -> list[Path]:
    """Raises ModelError for an index that is none, or one that leads out of its folder."""
    expected, remedy = "an index of weight files", "fetch the model again"
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        astray = next((name for name in names if Path(name).name != name), None)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ModelError(index, expected, f"{error!r}", remedy) from error
    if astray is not None or not names:
        raise ModelError(index, f"{expected} beside it", astray or "an empty one", remedy)
    return [index.parent / name for name in names]


def stored_tensors(files: list[Path]) -> list[Stored]:
    """What the headers of safetensors or GGUF files, already checked, say of each tensor; none of pickled files."""
    found: list[Stored] = []
    for file in files:
        if file.suffix == ".gguf":
            found += [Stored(str(t.name), t.tensor_type.name, int(t.n_elements)) for t in _gguf(file)]
        elif file.suffix == ".safetensors":
            header = _header(file)
            found += [Stored(name, entry["dtype"], prod(entry["shape"])) for name, entry in header.items()]
    return found


def _gguf(file: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(file).tensors


def _header(file: Path) -> dict[str, dict[str, Any]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _check_safetensors(file: Path) -> None:
    """The header parses and the file is as long as it says (safetensors format, section 'Format')."""
    expected, remedy = "a whole safetensors file", "fetch it again"
    if not file.is_file():
        raise ModelError(file, expected, "no such file", remedy)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise ModelError(file, expected, f"{size} bytes, cut short or not safetensors", remedy)
        try:
            header = json.loads(stream.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(file, expected, "a header that does not parse", remedy) from error
    if max(ends, default=0) + 8 + length != size:
        raise ModelError(file, expected, f"{size} bytes where {max(ends, default=0) + 8 + length} belong", remedy)


def check_gguf(file: Path) -> None:
    """The file says that it is GGUF; whether its tensors are whole shows when they are read."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(file, "a GGUF file", "one that does not begin as GGUF", "fetch it again")


def fingerprint(files: list[Path]) -> str:
    """sha256 over the names and contents of the weight files, in name order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def check_finite(model: Any, source: str) -> None:
    """Raises ModelError naming the first parameter that holds NaN or Inf."""
    for name, parameter in model.named_parameters():
        # a sum is finite unless an entry is not, or unless it overflows: then the entries are looked at
        if not torch.isfinite(parameter.detach().sum(dtype=torch.float32)) and not torch.isfinite(parameter).all():
            raise ModelError(source, "finite weights", f"NaN or Inf in {name}", "use a sound copy of the model")
