"""Next-token loss from h[L] on, a few tokens' logits at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.exact import exact_sum
from lowrise.model.decoder import Decoder

# Logits held at once. Up to 32 MiB of them the C library hands out the same memory again; more than that would be
# mapped, cleared and given back for every piece.
_LOGITS = 2**23


def logits_by_piece(decoder: Decoder, h: Tensor, ids: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(positions, their logits (batch, positions, vocabulary) in float32), one piece of all positions after the other.

    h: h[L], (batch, tokens, hidden); ids: (batch, tokens). The last token, which no token follows, is left out. Norm,
    head and what the family does to logits are the model's own. Differentiable in h.
    """
    vocabulary = decoder.model.get_output_embeddings().weight.shape[0]
    positions = ids.shape[1] - 1
    step = max(1, _LOGITS // vocabulary // len(ids))
    for start in range(0, positions, step):
        piece = slice(start, min(start + step, positions))
        yield piece, decoder.logits(h[:, piece], ids[:, piece]).float()


def losses_by_piece(decoder: Decoder, h: Tensor, ids: Tensor) -> Iterator[Tensor]:
    """Summed next-token cross-entropy (natural log) of one piece of the positions after the other, each 0-d, float64.

    h, ids: as above.
    """
    ids = ids.to(decoder.device)
    for piece, logits in logits_by_piece(decoder, h, ids):
        targets = ids[:, piece.start + 1 : piece.stop + 1].flatten()
        yield exact_sum(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none"))


@torch.no_grad()
def next_token_loss(decoder: Decoder, h: Tensor, ids: Tensor) -> float:
    """Summed next-token cross-entropy (natural log) of batch · (tokens - 1) positions; h and ids as above."""
    return sum(float(piece) for piece in losses_by_piece(decoder, h, ids))
