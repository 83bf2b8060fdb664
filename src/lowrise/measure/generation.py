"""Greedy generation in the two parts that are timed: reading the prompt, and one token after another."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from lowrise.model.decoder import Decoder


def prefill(decoder: Decoder, ids: Tensor) -> tuple[Tensor, Any]:
    """ids (batch, tokens) → the likeliest next token (batch, 1) and the cache.

    As `generate` does, the head reads the last position alone, where the family's forward pass lets one say so.
    """
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(decoder.model.forward).parameters else {}
    out = decoder.model(input_ids=ids, use_cache=True, **last)
    return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def decode(decoder: Decoder, token: Tensor, cache: Any, steps: int) -> Tensor:
    """`steps` tokens more, each fed back; token (batch, 1) → the last one (batch, 1). The cache grows in place."""
    for _ in range(steps):
        out = decoder.model(input_ids=token, past_key_values=cache, use_cache=True)
        token, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
    return token
