"""What a repair takes of memory beside the model's layers and one batch: asked before a run under a bound begins."""

from __future__ import annotations

from lowrise.edit.neurons import blocks
from lowrise.model.decoder import Decoder
from lowrise.model.neurons import neurons_apart
from lowrise.model.structure import known_by_name

_MATRICES = 3.6  # float64, held at once while neurons are chosen, or what is written then is solved
_COPIES = 6  # of a layer in float32, with Adam's moments, while it is trained


def refit(decoder: Decoder) -> int:
    """Bytes, for the largest layer: its regressions with the neurons that it may take over, or its training."""
    trained = _COPIES * 4 * max(sum(one.numel() for one in layer.parameters()) for layer in decoder.layers)
    if not known_by_name(decoder):
        return trained
    own = max(decoder.layer(index).neuron_count for index in range(len(decoder)))
    lent = max(block.stop - block.start for block in blocks(own)) if neurons_apart(decoder) else 0
    inputs = own + max(lent, decoder.hidden_size)
    return max(trained, round(_MATRICES * 8 * inputs**2))
