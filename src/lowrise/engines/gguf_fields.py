"""What a GGUF file's metadata say of its layers, cut to those that are kept; every other field stays byte by byte.

Fields of the `gguf` package's constants (Keys) that count, mark or list layers are rows here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from lowrise.engines.gguf_file import GgufFile
from lowrise.errors import ModelError
from lowrise.headers import GGUF_ARRAY, GGUF_SCALARS

_REMEDY = "export the folder by llama.cpp's converter (--converter)"
_Rule = Callable[[int, Sequence[int], int], int | None]
"""(value, kept layers, layers of the whole) → the value for those that are kept; None where none says it."""


def _front(value: int, kept: Sequence[int], _layers: int) -> int | None:
    """Of the first `value` layers those that are kept."""
    return sum(layer < value for layer in kept)


def _end(value: int, kept: Sequence[int], layers: int) -> int | None:
    """Of the last `value` layers those that are kept."""
    return sum(layer >= layers - value for layer in kept)


def _period(value: int, kept: Sequence[int], _layers: int) -> int | None:
    """One of every `value` layers is of another kind, the last of them: the same where new numbers say the same."""
    if value < 1:
        return value
    same = all(((new + 1) % value == 0) is ((old + 1) % value == 0) for new, old in enumerate(kept))
    return value if same else None


def _none(value: int, _kept: Sequence[int], _layers: int) -> int | None:
    return value if value == 0 else None


# A number, by the field's name behind the architecture's.
_NUMBERS: dict[str, _Rule] = {
    "block_count": lambda _value, kept, _layers: len(kept),
    "leading_dense_block_count": _front,
    "attention.shared_kv_layers": _end,
    "attention.sliding_window_pattern": _period,
    "full_attention_interval": _period,
    "interleave_moe_layer_step": _period,
    "nextn_predict_layers": _none,
}

# Lists with one entry a layer. Where the field is a single number it is that of every layer, and stays.
_LISTS = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "feed_forward_length",
    "expert_feed_forward_length",
    "activation_sparsity_scale",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "rope.freq_base",
    "rope.dimension_count",
    "xielu.alpha_p",
    "xielu.alpha_n",
    "xielu.beta",
    "xielu.eps",
}
_NOT_BY_LAYER = {"rope.dimension_sections"}
_OF_NO_LAYER = ("general.", "tokenizer.")
_FILE_TYPE = "general.file_type"


def cut_fields(base: GgufFile, kept: Sequence[int], file_type: int | None = None) -> dict[str, bytes]:
    """key → the field's bytes, in the file's order. kept: layers that stay, by their number in `base`.

    file_type: what `general.file_type` is to say, where the file has it. Raises ModelError for a field that no value
    describes the kept layers by, or that lists as many things as there are layers and is not known.
    """
    made = {}
    for key, value in base.header.metadata.items():
        name, content = base.field(key)
        if key == _FILE_TYPE and file_type is not None:
            content = _with_number(content, file_type)
        elif not key.startswith(_OF_NO_LAYER):
            content = _cut(base, key, value, content, kept)
        made[key] = name + content
    return made


def changed_fields(base: GgufFile, fields: dict[str, bytes]) -> list[str]:
    """Names of those that are not as in `base`."""
    return [key for key, content in fields.items() if b"".join(base.field(key)) != content]


def _cut(base: GgufFile, key: str, value: object, content: bytes, kept: Sequence[int]) -> bytes:
    name, layers = key.removeprefix(f"{base.architecture}."), base.layers
    if isinstance(value, list):
        if len(value) != layers or name in _NOT_BY_LAYER:
            return content
        if name not in _LISTS:
            found = f"{key}, a list of {layers} entries that may be one of layers"
            raise ModelError(base.path, "metadata that are known to be of layers or not", found, _REMEDY)
        return _with_items(base, key, content, kept)
    rule = _NUMBERS.get(name)
    if rule is None or type(value) is not int:
        return content
    new = rule(value, kept, layers)
    if new is None:
        found = f"{value}, which does not describe layers {_listed(kept)}"
        raise ModelError(f"{base.path}: {key}", "a value that says what the kept layers are", found, _REMEDY)
    return _with_number(content, new)


def _with_number(content: bytes, number: int) -> bytes:
    (kind,) = struct.unpack_from("<I", content)
    return content[:4] + struct.pack(GGUF_SCALARS[kind], number)


def _with_items(base: GgufFile, key: str, content: bytes, kept: Sequence[int]) -> bytes:
    """A list (type, type of its items, how many, the items) of those at `kept`."""
    kind, inner, count = struct.unpack_from("<IIQ", content)
    if kind != GGUF_ARRAY or inner not in GGUF_SCALARS:
        raise ModelError(f"{base.path}: {key}", "numbers, one a layer", "a list of another kind", _REMEDY)
    head = struct.calcsize("<IIQ")
    width = (len(content) - head) // count
    items = (content[head + width * layer : head + width * (layer + 1)] for layer in kept)
    return struct.pack("<IIQ", kind, inner, len(kept)) + b"".join(items)


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:12])) + (", …" if len(layers) > 12 else "")
