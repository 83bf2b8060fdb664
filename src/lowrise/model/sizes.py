"""What a config asks for against what the weight files hold, before memory is asked for by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lowrise.errors import ModelError
from lowrise.model.formats import Stored
from lowrise.model.wrappers import auto_class

_MOST_EXPERTS = 10_000
# Numbers that no file holds: masks and positions that a model computes, and what is tied or left out of a checkpoint.
_COMPUTED = 64_000_000


def check_layers(config: Any, tensors: Sequence[Stored], source: str) -> None:
    """Raises ModelError for more layers than tensors, or experts without number: building them takes hours."""
    text = config.get_text_config(decoder=True)
    remedy = "mend config.json, or fetch the model again"
    layers = getattr(text, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(tensors):
        raise ModelError(
            source, f"at most as many layers as tensors, {len(tensors)}", f"{layers} in its config", remedy
        )
    for name, value in text.to_dict().items():
        if "expert" in name and isinstance(value, int) and value > _MOST_EXPERTS:
            raise ModelError(source, f"{name} up to {_MOST_EXPERTS:,}", str(value), remedy)


def check_numbers(config: Any, tensors: Sequence[Stored], source: str) -> None:
    """Raises ModelError for a model much larger than its files. It is built without memory, and forgotten."""
    held = sum(tensor.numbers for tensor in tensors)
    with torch.device("meta"):
        empty = auto_class(config).from_config(config)
    asked = sum(value.numel() for part in (empty.parameters(), empty.buffers()) for value in part)
    if asked > 2 * held + _COMPUTED:
        found = f"{asked:,} in the model of its config"
        raise ModelError(source, f"about the {held:,} numbers of the weight files", found, "mend config.json")
