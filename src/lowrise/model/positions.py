"""Where the positions of a model begin."""

from __future__ import annotations

from typing import Any

from torch import nn


def first_position(model: Any, positions: int) -> int:
    """In a table of so many positions: behind the row of padding, in families that keep one in it (as RoBERTa does);
    else 0. So many fewer tokens can be read.
    """
    words = model.get_input_embeddings()
    tables = (one for one in model.modules() if isinstance(one, nn.Embedding) and one is not words)
    padded = [one.padding_idx for one in tables if one.num_embeddings == positions and one.padding_idx is not None]
    return padded[0] + 1 if padded else 0
