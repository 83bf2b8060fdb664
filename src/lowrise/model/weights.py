"""Weight files before and after loading: whole, safe, finite; and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch

from lowrise.errors import ModelError

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weight_files(folder: Path, source: str, allow_pickle: bool) -> list[Path]:
    """The weight files of a folder, sorted.

    Raises ModelError when there are none, only pickled ones, a shard is missing, or a file is cut short.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            weights = [folder / name for name in names]
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
            raise ModelError(index, "an index of weight files", f"{error!r}", "fetch the model again") from error
    else:
        weights = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    for file in weights:
        _check_safetensors(file)
    if weights:
        return weights
    pickled = sorted(file for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled and allow_pickle:
        return pickled
    if pickled:
        raise ModelError(
            source,
            "safetensors weights",
            f"only pickled ones ({pickled[0].name}), which can run code when opened",
            "convert them to safetensors, or say --allow-pickle if you trust their author",
        )
    raise ModelError(source, "safetensors weights", "no weight file", "check the folder")


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
