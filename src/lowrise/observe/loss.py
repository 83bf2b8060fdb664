"""Next-token loss from h[L] on, a few tokens' logits at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.exact import exact_sum
from lowrise.model.batching import is_out_of_memory
from lowrise.model.decoder import Decoder


def logits_by_piece(decoder: Decoder, h: Tensor, ids: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(positions, their logits (batch, positions, vocabulary) in float32), one piece of all positions after the other.

    h: h[L], (batch, tokens, hidden); ids: (batch, tokens). The last token, which no token follows, is left out. Norm,
    head and what the family does to logits are the model's own. Differentiable in h.
    """
    vocabulary = decoder.model.get_output_embeddings().weight.shape[0]
    positions = ids.shape[1] - 1
    step = max(1, decoder.batching.piece_of_logits // vocabulary // len(ids))
    start = 0
    while start < positions:
        piece = slice(start, min(start + step, positions))
        try:
            yield piece, decoder.logits(h[:, piece], ids[:, piece]).float()
            start = piece.stop
            continue
        except RuntimeError as error:
            if step == 1 or not is_out_of_memory(error):
                raise
        decoder.batching.fewer_logits()
        step = -(-step // 2)


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
