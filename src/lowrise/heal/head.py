"""From the last layer's output to logits, a few positions at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder


def head(decoder: Decoder, h: Tensor) -> Tensor:
    """h[L] of some positions (positions, hidden) → their logits (positions, vocabulary), by the model's own code."""
    ids = torch.zeros(1, len(h), dtype=torch.long, device=h.device)
    return decoder.logits(h.unsqueeze(0), ids)[0]


def chunks(decoder: Decoder, positions: int) -> Iterator[slice]:
    """Positions whose logits are held at once."""
    rows = decoder.model.get_output_embeddings().weight.shape[0]
    size = max(1, min(decoder.batching.chunk_of_logits // rows, decoder.max_length))
    for first in range(0, positions, size):
        yield slice(first, min(first + size, positions))
