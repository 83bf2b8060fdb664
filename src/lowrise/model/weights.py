"""Weight files before and after loading: whole, safe, finite; and their fingerprint."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path
from typing import Any

import torch

from lowrise.errors import ModelError
from lowrise.headers import gguf_header, safetensors_header
from lowrise.model.formats import Stored
from lowrise.reading import read_json
from lowrise.store import LayerStore

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAFE, _OPENED_PICKLES = "model.safetensors", "pytorch_model.bin"


def check_weight_files(folder: Path, source: str, allow_pickle: bool, named: object = None) -> list[Path]:
    """The weight files of a folder that transformers loads, sorted: others may lie beside them.

    named: config.json's `transformers_weights`, which goes before all.
    Raises ModelError when there are none, or only pickled ones.
    """
    weights = _loaded(folder, [str(named)] if named else [_SAFE, f"{_SAFE}.index.json"])
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
    if not name.endswith(".index.json"):
        return [folder / name]
    return [folder / shard for shard in _indexed(folder / name)]


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


def stored_tensors(files: list[Path]) -> list[Stored]:
    """What the headers of safetensors or GGUF files say of each tensor; nothing is known of pickled ones.

    Raises ModelError for a file that is not whole.
    """
    found: list[Stored] = []
    for file in files:
        if file.suffix == ".gguf":
            tensors = gguf_header(file).tensors
            if not tensors:
                raise ModelError(str(file), "weights", "a GGUF file without a tensor", "fetch it again")
            found += [Stored(name, tensor.kind, prod(tensor.shape)) for name, tensor in tensors.items()]
        elif file.suffix == ".safetensors":
            header = safetensors_header(file)
            found += [Stored(name, entry["dtype"], prod(entry["shape"])) for name, entry in header.items()]
    return found


def sizes_in_memory(tensors: list[Stored], files: list[Path], dtype: torch.dtype) -> dict[str, int]:
    """Bytes of each tensor by name once it is loaded in `dtype`; of pickled files, which say nothing, their own."""
    if not tensors:
        return {file.name: file.stat().st_size for file in files}
    return {tensor.name: tensor.numbers * dtype.itemsize for tensor in tensors}


def fingerprint(files: list[Path]) -> str:
    """sha256 over the names and contents of the weight files, in name order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def state_sha256(model: Any, store: LayerStore) -> str:
    """sha256 over the names, dtypes, shapes and bytes of all parameters and kept buffers."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        store.relieve(tensor.nbytes)  # of those before
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashed.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return hashed.hexdigest()


def check_finite(model: Any, source: str, store: LayerStore) -> None:
    """Raises ModelError naming the first parameter that holds NaN or Inf."""
    for name, parameter in model.named_parameters():
        store.relieve(parameter.nbytes)  # of those before
        # a sum is finite unless an entry is not, or unless it overflows: then the entries are looked at
        if not torch.isfinite(parameter.detach().sum(dtype=torch.float32)) and not torch.isfinite(parameter).all():
            raise ModelError(source, "finite weights", f"NaN or Inf in {name}", "use a sound copy of the model")
