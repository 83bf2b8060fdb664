"""What a family keeps of the tokens it has read, told by its own cache object: grouped heads and windows included."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer: bytes a token of one row, and how many tokens are kept (None: all of them)."""

    bytes_per_token: int
    most: int | None


@torch.no_grad()
def layer_caches(decoder: Decoder, remedy: str = "leave --speed out") -> list[LayerCache]:
    """One entry a decoder layer, in the dtype that the model runs in; one token is run to see them.

    Raises ModelError, which advises `remedy`, for a family that keeps no keys and values.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=decoder.device)
    cache = getattr(decoder.model(input_ids=token, use_cache=True), "past_key_values", None)
    if cache is None:
        raise ModelError(
            decoder.where,
            "a model that keeps keys and values of what it has read",
            f"one that reads everything again for every token ({decoder.family})",
            remedy,
        )
    # a window of w tokens counts the one being read, so w - 1 are kept for it
    return [
        LayerCache(
            bytes_per_token=layer.keys.nbytes + layer.values.nbytes,
            most=layer.sliding_window - 1 if layer.is_sliding else None,
        )
        for layer in cache.layers
    ]


def cache_bytes(layers: list[LayerCache], tokens: int) -> int:
    """Bytes of keys and values after `tokens` tokens of one row."""
    return sum(layer.bytes_per_token * (tokens if layer.most is None else min(tokens, layer.most)) for layer in layers)
