"""Whether what a model keeps of the tokens it has read leads to the logits of reading them all again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Under these names families return and take what they keep: keys and values, recurrent and convolutional states.
_KEPT = ("past_key_values", "cache_params", "state", "mems")


def kept_state(output: Any) -> tuple[str, Any] | None:
    """(name of the argument that takes it, what a model keeps); None for a family that keeps nothing."""
    return next(((name, value) for name in _KEPT if (value := getattr(output, name, None)) is not None), None)


@torch.no_grad()
def uncached_logits(model: Any, ids: Tensor) -> Tensor:
    """ids (batch, tokens) → (batch, tokens, vocabulary), float32, in main memory."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.float().cpu()
    return logits


@torch.no_grad()
def disagreement(model: Any, ids: Tensor, at_once: int = 1) -> float:
    """Most that logits of a token at a time through the cache differ from those of whole rows.

    A share of the largest logit; 0 for a family that keeps nothing and reads everything again, infinite where the
    family's own code fails at it. at_once: tokens of each row that are read first, together.
    """
    whole = uncached_logits(model, ids)
    kept: dict[str, Any] = {}
    rows = []
    for column in ids.split([at_once, *[1] * (ids.shape[1] - at_once)], dim=1):
        try:
            out = model(input_ids=column, use_cache=True, **kept)
        except Exception:  # noqa: BLE001 - whatever a family's own code raises
            return math.inf
        found = kept_state(out)
        if found is None:
            return 0.0
        kept = dict([found])
        rows.append(out.logits.float().cpu())
    largest = float(whole.abs().max())
    return float((torch.cat(rows, dim=1) - whole).abs().max()) / largest if largest else 0.0
