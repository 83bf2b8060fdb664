"""How a model calls its layers for full windows, for networks that are trained in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments


@torch.no_grad()
def full_window_calls(decoder: Decoder, rows: int, length: int) -> list[LayerArguments]:
    """The model's own calls of its layers for so many full windows: causal on every attention backend."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    return [LayerArguments(to_float32(call.args), to_float32(call.kwargs)) for call in decoder.embed(ids)[1]]


def to_float32(value: Any) -> Any:
    """The same structure with every floating tensor in float32, as the network in training is."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(to_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: to_float32(item) for key, item in value.items()}
    return value
