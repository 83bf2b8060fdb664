"""Weights written a tensor at a time, for a model whose layers lie on disk: no shard of them is ever in memory.

`save_pretrained` hands a whole shard to the safetensors library, which reads all of it at once. Here the same tensors,
under the same names and in the same files, are written one after the other in that library's format; a test compares
the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_torch_storage_size, split_state_dict_into_shards_factory
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from lowrise.model.decoder import Decoder
from lowrise.store import layer_of

_FILES = "model{suffix}.safetensors"
_LARGEST_SHARD = "50GB"  # as of `save_pretrained`
_METADATA = {"format": "pt"}
# In the order that the library sorts tensors by, the last ones first; then by name.
_KINDS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.complex64: "C64", torch.float64: "F64",
    torch.int64: "I64",
}  # fmt: skip
_PIECE = 1 << 26  # bytes of a write


def save_model(decoder: Decoder, folder: Path, *, original: bool) -> None:
    """Config and weights, as `save_pretrained` does. original: tensors as the checkpoint had them, not as the class."""
    if not decoder.store.layer_by_layer:
        decoder.model.save_pretrained(folder, save_original_format=original)
        return
    decoder.model.save_pretrained(folder, state_dict={}, save_original_format=original)
    tensors = _own_tensors(decoder.model)
    names, value_of = _as_written(decoder.model, tensors, original)
    split = split_state_dict_into_shards_factory(
        names,
        get_storage_size=get_torch_storage_size,
        get_storage_id=lambda value: value.untyped_storage()._cdata,  # parts of one tensor come into one file
        filename_pattern=_FILES,
        max_shard_size=_LARGEST_SHARD,
    )
    for file, among in split.filename_to_tensors.items():
        with (folder / file).open("wb") as stream:
            order = _in_order({name: names[name] for name in among})
            header = _header({name: names[name] for name in order})
            stream.write(len(header).to_bytes(8, "little") + header)
            for name in order:
                content = value_of(name).contiguous().view(-1).view(torch.uint8).numpy().data
                for start in range(0, len(content), _PIECE):
                    stream.write(content[start : start + _PIECE])
                    decoder.store.relieve()
    if split.is_sharded:
        about = {"total_parameters": decoder.model.num_parameters(), **split.metadata}
        index = json.dumps({"metadata": about, "weight_map": split.tensor_to_filename}, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(index + "\n", encoding="utf-8")


def _own_tensors(model: Any) -> dict[str, Tensor]:
    """By name, those that a checkpoint holds: of tied ones the first."""
    ignored = {*(model._keys_to_ignore_on_save or ())}
    found = {name: value for name, value in model.state_dict().items() if name not in ignored}
    kept: dict[str, Tensor] = remove_tied_weights_from_state_dict(found, model)
    return kept


def _as_written(
    model: Any, tensors: dict[str, Tensor], original: bool
) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """(what is written by name, without memory, in the order of the checkpoint; the numbers of each of these).

    Where the class keeps layers otherwise than files do, the tensors of one layer are turned back at a time.
    """
    if not original:
        return {name: _empty(value) for name, value in tensors.items()}, tensors.__getitem__
    names: dict[str, Tensor] = revert_weight_conversion(model, {name: _empty(one) for name, one in tensors.items()})
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layers.setdefault(layer_of(name), {})[name] = value
    made: dict[str, dict[str, Tensor]] = {}  # of the layer that was asked for last

    def value_of(name: str) -> Tensor:
        layer = layer_of(name)
        if layer not in made:
            made.clear()
            made[layer] = revert_weight_conversion(model, layers[layer])
        return made[layer][name]

    return names, value_of


def _empty(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    rank = {dtype: place for place, dtype in enumerate(_KINDS)}
    return sorted(tensors, key=lambda name: (-rank[tensors[name].dtype], name))


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    about: dict[str, Any] = {"__metadata__": _METADATA}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.numel() * value.itemsize
        about[name] = {"dtype": _KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)
