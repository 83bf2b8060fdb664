"""How many rows a measurement runs at once, when all their logits are kept."""

from __future__ import annotations

from lowrise.model.decoder import Decoder

_LOGITS = 2**26  # float32, held at once on CPU, where nothing says in time that memory ends
_ACCELERATOR_LOGITS = 2**28  # lm-eval holds them three times: 3 GiB


def rows_at_once(decoder: Decoder, length: int) -> int:
    """Rows of `length` tokens, one at least."""
    vocabulary = int(decoder.model.get_output_embeddings().weight.shape[0])
    logits = _LOGITS if decoder.device.type == "cpu" else _ACCELERATOR_LOGITS
    return max(1, min(decoder.batch_tokens, logits // vocabulary) // length)
