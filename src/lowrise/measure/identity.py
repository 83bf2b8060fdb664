"""What a measured model is, as hashes: its numbers, its configuration, its code and its tokenizer."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from lowrise.calibration.prefix import encode, leading_tokens
from lowrise.errors import ModelError, TextError
from lowrise.measure.cache import digest
from lowrise.measure.system import versions
from lowrise.model.decoder import Decoder
from lowrise.model.weights import state_sha256
from lowrise.reading import read_bytes

# Settings of a config that say where it came from, not what the model computes.
_PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "auto_map")
_PROBE = "The 3 quick foxes, 1,234.5!\n\tnaïve — 狐狸 🦊  two  spaces"


def model_identity(decoder: Decoder, tokenizer: Any) -> dict[str, Any]:
    """All that decides what the model puts out: parts of a cache key.

    The numbers are hashed as they lie in memory, so the dtype that was asked for counts, and so does code that a
    checkpoint brings.
    """
    config = {name: value for name, value in decoder.model.config.to_dict().items() if name not in _PROVENANCE}
    return {
        "weights": state_sha256(decoder.model, decoder.store),
        "config": digest(config),
        "code": files_sha256({inspect.getfile(type(module)) for module in decoder.model.modules()}),
        "tokenizer": tokenizer_sha256(tokenizer),
        "dtype": str(decoder.dtype),
        "device": decoder.device.type,
        "versions": {name: value for name, value in versions().items() if name != "python"},
    }


def tokenizer_sha256(tokenizer: Any) -> str:
    """Over the whole tokenizer where it can be written down, over its vocabulary and a sample where it cannot."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    # truncation and padding are how a tokenizer was last called, not what it is
    written = None if backend is None else _without_call_state(backend.to_str())
    return digest([written, special, tokenization_sha256(tokenizer)])


def tokenization_sha256(tokenizer: Any) -> str:
    """Equal for two tokenizers that give the same ids: vocabulary and the ids of a sample, special tokens added."""
    try:
        ids = encode(tokenizer, _PROBE, "")
    except TextError:  # one that does not know all of the sample: what it puts around a text counts nevertheless
        ids = [*leading_tokens(tokenizer, "auto")]
    return digest([tokenizer.get_vocab(), ids])


def files_sha256(files: set[str] | list[str]) -> str:
    """Over the contents, wherever the files lie."""
    return digest(sorted(hashlib.sha256(_code(file)).hexdigest() for file in files))


def _code(file: str) -> bytes:
    return read_bytes(file, ModelError, "Python that can be read", "check the file")


def _without_call_state(text: str) -> str:
    import json

    return json.dumps(
        {name: value for name, value in json.loads(text).items() if name not in ("truncation", "padding")}
    )
