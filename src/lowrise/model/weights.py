"""Weight files before and after loading: whole, safe, finite; and their fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from lowrise.errors import ModelError
from lowrise.headers import safetensors_header
from lowrise.reading import read_json

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weight_files(folder: Path, source: str, allow_pickle: bool) -> list[Path]:
    """The weight files of a folder, sorted.

    Raises ModelError when there are none, only pickled ones, a shard is missing, or a file is cut short.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = _indexed(index)
        weights = [folder / name for name in names]
    else:
        weights = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    for file in weights:
        safetensors_header(file)
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


def _indexed(index: Path) -> list[str]:
    """The files that an index names, all of them plain names of its own folder."""
    expected, remedy = "an index of weight files", "fetch the model again"
    content = read_json(index, ModelError, expected, remedy, lenient=True)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_name, places.values())) else set()
    if not names:
        raise ModelError(index, expected, "no weight_map to files beside it", remedy)
    return sorted(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and Path(value).name == value


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
