"""Next-token loss from h[L] on, a few tokens' logits at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder

# Logits held at once. Up to 32 MiB of them the C library hands out the same memory again; more than that would be
# mapped, cleared and given back for every piece.
_LOGITS = 2**23


def losses_by_piece(decoder: Decoder, h: Tensor, ids: Tensor) -> Iterator[Tensor]:
    """Summed next-token cross-entropy (natural log) of one piece of the positions after the other, each 0-d, float64.

    h: h[L], (batch, tokens, hidden); ids: (batch, tokens). Norm, head and what the family does to logits are the
    model's own. Differentiable in h.
    """
    vocabulary = decoder.model.get_output_embeddings().weight.shape[0]
    ids = ids.to(decoder.device)
    positions = ids.shape[1] - 1
    step = max(1, _LOGITS // vocabulary // len(ids))
    for start in range(0, positions, step):
        stop = min(start + step, positions)
        logits = decoder.leave(h[:, start:stop], ids[:, start:stop]).float().flatten(0, 1)
        targets = ids[:, start + 1 : stop + 1].flatten()
        yield torch.nn.functional.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)


@torch.no_grad()
def next_token_loss(decoder: Decoder, h: Tensor, ids: Tensor) -> float:
    """Summed next-token cross-entropy (natural log) of batch · (tokens - 1) positions; h and ids as above."""
    return sum(float(piece) for piece in losses_by_piece(decoder, h, ids))
