"""What a checkpoint's folder says of itself, as far as engines ask: its configs and files. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lowrise.errors import ModelError, close_paths
from lowrise.headers import safetensors_header
from lowrise.reading import kind_of, read_json

_DEPTH = ("decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
_INDEX = "model.safetensors.index.json"
_EXPECTED, _REMEDY = "the folder of a model", "give a folder with a config.json, as `lowrise run` writes it"
_OF_GGUF = "check the folder that it was made of (--for llama.cpp); `lowrise export` proves what it writes"


class HasDict(Protocol):
    """A config of transformers."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Checkpoint:
    """config: of the decoder; of a wrapper around it, the part about text. family: `model_type`, the wrapper's.

    depth: decoder layers. architecture: its class; of a wrapper whose text names one, that. text: `model_type` of a
    wrapper's text. tied: whether the whole model's head is, where the config says it. files: names in the folder.
    tensors: names of its weights. formats: of numbers among them, as safetensors calls them.
    """

    config: Mapping[str, Any]
    family: str
    depth: int
    architecture: str | None
    text: str | None = None
    tied: bool | None = None
    own_code: bool = False
    quantized: bool = False
    files: frozenset[str] = frozenset()
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    tensors: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()


def of_config(config: Mapping[str, Any] | HasDict) -> Checkpoint:
    """A model of which the config is known. Raises ModelError where it is none of a stack of decoder layers."""
    whole = config if isinstance(config, Mapping) else config.to_dict()
    return _checkpoint(whole, "config")


def of_folder(folder: Path) -> Checkpoint:
    """Raises ModelError for what is not the folder of a model, and for files in it that cannot be read."""
    kind = kind_of(folder, ModelError, _EXPECTED, _REMEDY)
    if kind == "file" and folder.suffix.lower() == ".gguf":
        raise ModelError(folder, _EXPECTED, "a GGUF file, which does not say what kinds its layers had", _OF_GGUF)
    if kind != "folder":
        remedy = close_paths(folder, _REMEDY)
        raise ModelError(folder, _EXPECTED, "nothing" if kind is None else f"a {kind}", remedy)
    found = without_weights(folder)
    files = found.files
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    shards = _json(folder / _INDEX).get("weight_map") if _INDEX in files else None
    missing = sorted({*map(str, shards.values())} - files) if isinstance(shards, dict) else []
    if missing or not weights:
        what = f"no {missing[0]}, which {_INDEX} names" if missing else "none"
        raise ModelError(folder, "weights in safetensors files", what, "give the whole folder of the model")
    headers = [safetensors_header(folder / name) for name in weights]
    return replace(
        found,
        tensors=frozenset(tensor for header in headers for tensor in header),
        formats=frozenset(entry["dtype"] for header in headers for entry in header.values()),
    )


def without_weights(folder: Path) -> Checkpoint:
    """What a folder with a config.json says by its settings and the names of its files."""
    files = frozenset(file.name for file in folder.iterdir())
    tokenizer = _json(folder / "tokenizer_config.json") if "tokenizer_config.json" in files else {}
    config = folder / "config.json"
    return replace(_checkpoint(_json(config), config), files=files, tokenizer=tokenizer)


def _checkpoint(whole: Mapping[str, Any], where: object) -> Checkpoint:
    inner = whole.get("text_config")
    config = inner if isinstance(inner, Mapping) else whole
    depth = next((config[name] for name in _DEPTH if type(config.get(name)) is int), None)
    if depth is None:  # Nemotron-H writes no number
        listed = config.get("layer_types") or config.get("layers_block_type")
        depth = len(listed) if isinstance(listed, list) else None
    if depth is None or not 0 < depth <= 10_000:
        raise ModelError(where, "the number of decoder layers", f"num_hidden_layers {depth}", "mend the config")
    # llama.cpp's converter, conversion/base.py: get_model_architecture
    names = config.get("architectures") or whole.get("architectures")
    architecture = names[0] if isinstance(names, list | tuple) and names and isinstance(names[0], str) else None
    return Checkpoint(
        config=config,
        family=str(whole.get("model_type")),
        depth=depth,
        architecture=architecture,
        text=str(config.get("model_type")) if config is not whole else None,
        tied=tied if isinstance(tied := whole.get("tie_word_embeddings"), bool) else None,
        own_code=bool(whole.get("auto_map")) or str(whole.get("model_type")).startswith("lowrise-"),
        quantized=bool(whole.get("quantization_config")),
    )


def _json(file: Path) -> dict[str, Any]:
    found = read_json(file, ModelError, "the JSON of a model's folder", "check the folder", lenient=True)
    if not isinstance(found, dict):
        raise ModelError(file, "a mapping", type(found).__name__, "check the folder")
    return found
