"""The number format of weights: what a checkpoint came in, what cannot be read as numbers, what a fresh load makes."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lowrise.errors import ModelError
from lowrise.model.wrappers import parts
from lowrise.store import LayerStore

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The names that safetensors and GGUF headers give to the formats that weights may have."""

# What old checkpoints keep beside their weights: masks and positions that every load makes anew.
_NOT_WEIGHTS = re.compile(r"(^|\.)(attn|attention|self_attn)\.(masked_)?bias$|causal_mask$|position_ids$|inv_freq$")


@dataclass(frozen=True)
class Stored:
    """One tensor in a weight file. kind: its number format, in the file's word."""

    name: str
    kind: str
    numbers: int


def refuse_unreadable(tensors: Iterable[Stored], source: str) -> None:
    """Raises ModelError naming a weight that is no float: cast, codes or indices would pass for weights."""
    for tensor in tensors:
        if tensor.kind not in FLOATS and not _NOT_WEIGHTS.search(tensor.name):
            raise ModelError(
                source,
                f"weights in {', '.join(FLOATS)}",
                f"{tensor.kind} in {tensor.name} and no quantization_config",
                "prune the original, then quantise",
            )


def usual_format(tensors: Iterable[Stored]) -> torch.dtype:
    """The format of most weights. float32 where those are of none: what a GGUF file's blocks are unpacked to."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        if not _NOT_WEIGHTS.search(tensor.name):
            counts[tensor.kind] += tensor.numbers
    return FLOATS.get(counts.most_common(1)[0][0], torch.float32) if counts else torch.float32


def named_format(config: Any) -> torch.dtype | None:
    """The one that a config names, if it names one that weights may have."""
    dtype = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    return dtype if dtype in FLOATS.values() else None


def name_format(config: Any, dtype: torch.dtype) -> None:
    """Say in the configs nested in `config` what a load in `dtype` says there: their parts are built in it."""
    for part in parts(config):
        if part is not config:
            part.dtype = dtype


def cast_as_loaded(model: Any, dtype: torch.dtype, store: LayerStore) -> None:
    """Bring every parameter and float buffer of `model`, whose layers live in `store`, to the format that a load of it
    in `dtype` would give it.

    Most are of `dtype`; a family may keep some in float32 (routers, rotary frequencies), by flag or as it builds them.
    """
    for _, tensor, own in _as_loaded(model, dtype):
        tensor.data = store.recast(tensor.data, own)
    name_format(model.config, dtype)


def check_as_loaded(model: Any, dtype: torch.dtype, where: str) -> None:
    """Raises ModelError for a parameter or a float buffer that is not in the format that a load in `dtype` gives it."""
    for name, tensor, own in _as_loaded(model, dtype):
        if tensor.dtype != own:
            found = str(tensor.dtype).removeprefix("torch.")
            expected = f"{str(own).removeprefix('torch.')} in {name}, as a load gives it"
            raise ModelError(where, expected, found, "load the model in the format that it is to have")


def _as_loaded(model: Any, dtype: torch.dtype) -> list[tuple[str, torch.Tensor, torch.dtype]]:
    """(name, tensor, format) of every float parameter and buffer."""
    config = copy.deepcopy(model.config)
    name_format(config, dtype)
    with _building_in(dtype), torch.device("meta"):
        stock = type(model)(config)
    formats = {name: tensor.dtype for name, tensor in (*stock.named_parameters(), *stock.named_buffers())}
    kept = [re.compile(pattern.replace("*", ".*")) for pattern in model._get_dtype_plan(dtype)]
    written = set(model.state_dict())
    found = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            own = formats.get(name, dtype)
            if name in written and any(pattern.search(name) for pattern in kept):
                own = torch.float32
            found.append((name, tensor, own))
    return found


@contextmanager
def _building_in(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
