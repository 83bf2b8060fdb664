"""How many rows a measurement runs at once, when all their logits are kept."""

from __future__ import annotations

from lowrise.model.decoder import Decoder


def rows_at_once(decoder: Decoder, length: int) -> int:
    """Rows of `length` tokens, one at least."""
    vocabulary = int(decoder.model.get_output_embeddings().weight.shape[0])
    return max(1, min(decoder.batch_tokens, decoder.batching.whole_logits // vocabulary) // length)
