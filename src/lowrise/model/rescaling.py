"""RWKV halves its stream every few layers, outside of them, against float16's overflow at 65,504.

A layer's output matrices are divided to match, by the number of the layer, when the model first runs. The norm at the
end takes the factor away again. So the same model without it (`rescale_every: 0`) has layers that stand alone, of the
weights that its file has; what is cut is written so.
"""

from __future__ import annotations

from typing import Any

import torch


def leave_rescaling_out(model: Any) -> None:
    """In place, for models that have it: every layer's own weights, and a stream that layers alone change."""
    divided, every = getattr(model.base_model, "layers_are_rescaled", None), getattr(model.config, "rescale_every", 0)
    if divided is None or not every:
        return
    model.config.rescale_every = 0
    if divided:  # as soon as it has run
        with torch.no_grad():
            for number, block in enumerate(model.base_model.blocks):
                for matrix in (block.attention.output.weight, block.feed_forward.value.weight):
                    matrix.mul_(2 ** (number // every))
