"""Number formats of tensors that are written anew, and how far rounding to them may move a number."""

from __future__ import annotations

import gguf
import numpy as np

from lowrise.engines.gguf_checks import Type
from lowrise.engines.gguf_file import Numbers
from lowrise.errors import ModelError

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""What `general.file_type` says of a file whose matrices are all of that type (llama.cpp's llama_ftype)."""

# Formats that a changed tensor keeps with `auto`; of all others it becomes the last, which moves numbers least.
_KEPT = ("F32", "F16", "BF16", "Q8_0")
_SMALL = 32  # numbers in a block of Q8_0
_LARGEST = 65504.0  # of a float16, as numbers are in F16 and the scales of blocks in Q8_0
_STEP = {"F16": (2**-11, 2**-25), "BF16": (2**-8, 2**-134)}  # half of the last place: relative, and at least
_STEPS = 127  # of a block of Q8_0, on either side of 0

# Matrices that llama.cpp reads in F32 alone (its converter's list).
_ALWAYS_F32 = {
    gguf.TENSOR_NAMES[tensor].rpartition(".")[2]
    for tensor in (
        gguf.MODEL_TENSOR.FFN_GATE_INP,
        gguf.MODEL_TENSOR.FFN_GATE_INP_SHEXP,
        gguf.MODEL_TENSOR.POS_EMBD,
        gguf.MODEL_TENSOR.TOKEN_TYPES,
        gguf.MODEL_TENSOR.SSM_CONV1D,
        gguf.MODEL_TENSOR.SHORTCONV_CONV,
        gguf.MODEL_TENSOR.ALTUP_CORRECT_COEF,
        gguf.MODEL_TENSOR.ALTUP_PREDICT_COEF,
    )
}


def kind_for(name: str, shape: tuple[int, ...], before: str, wanted: Type) -> str:
    """GGML's name of the format that a tensor is written in. before: of the one in the base.

    wanted: for matrices. Vectors, norms and what else llama.cpp reads in F32 alone stay so; rows that no block of Q8_0
    fits become F16.
    """
    stem = name.removesuffix(".weight")
    single = len(shape) < 2 or stem == name or stem.endswith("_norm") or stem.rpartition(".")[2] in _ALWAYS_F32
    if single:
        return "F32"
    kind = wanted.upper() if wanted != "auto" else before if before in _KEPT else _KEPT[-1]
    return "F16" if kind == "Q8_0" and shape[-1] % _SMALL else kind


def check_range(name: str, numbers: Numbers, kind: str) -> None:
    """Raises ModelError for numbers that are not finite, or too large for the format."""
    largest = float(np.abs(numbers).max(initial=0))
    limit = {"F16": _LARGEST, "Q8_0": _LARGEST * _STEPS}.get(kind, float(np.finfo(np.float32).max))
    if not largest <= limit:
        raise ModelError(name, f"numbers that {kind} can hold, up to {limit:.3g}", f"{largest:.3g}", "say --type bf16")


def is_rounded(found: Numbers, numbers: Numbers, kind: str) -> bool:
    """Whether `found` is what rounding `numbers` to the format gives, or as near. Not for other formats."""
    if kind == "F32":
        return bool(np.array_equal(found, numbers))
    size = np.abs(numbers)
    if kind == "Q8_0":  # half a step, and what the scale is off as a float16
        blocks = size.reshape(-1, _SMALL).max(axis=-1, keepdims=True)
        allowed = (blocks * (0.5 / _STEPS + 2**-11) + 2**-18).repeat(_SMALL, axis=-1).reshape(numbers.shape)
    elif kind in _STEP:
        relative, least = _STEP[kind]
        allowed = size * relative + least
    else:
        return False
    return bool((np.abs(found - numbers) <= allowed * (1 + 2**-10)).all())
