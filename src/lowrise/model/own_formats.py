"""Tensors of a multimodal model that no edit changed, in the number format that they came in.

A load brings all weights to one format, and so does what is written of it. Towers often came in another than the text.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lowrise.headers import safetensors_header
from lowrise.model.formats import FLOATS


def restore_formats(base: Path, folder: Path) -> None:
    """Write the tensors in `folder` that are roundings of those of the same names in `base` as they are there."""
    known = {name: (file, entry) for file in _files(base) for name, entry in safetensors_header(file).items()}
    more = sum(_restored(file, known) for file in _files(folder))
    index = folder / "model.safetensors.index.json"
    if more and index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"]["total_size"] += more
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _restored(file: Path, known: dict[str, tuple[Path, dict[str, object]]]) -> int:
    """By how many bytes the file grew."""
    others = [
        name
        for name, entry in safetensors_header(file).items()
        if name in known and known[name][1]["shape"] == entry["shape"] and known[name][1]["dtype"] != entry["dtype"]
    ]
    if not others:
        return 0
    tensors, more = load_file(file), 0
    for name in others:
        with safe_open(known[name][0], framework="pt") as stream:
            own = stream.get_tensor(name)
        written = tensors[name]
        if own.dtype in FLOATS.values() and torch.equal(own.to(written.dtype), written):
            tensors[name] = own
            more += own.nbytes - written.nbytes
    save_file(tensors, file, metadata={"format": "pt"})
    return more
