"""How many decoder layers a config says, in whatever word."""

from __future__ import annotations

from typing import Any

# The words for the depth of a decoder where `num_hidden_layers` counts something else: an encoder's layers too, or
# two for each entry of the stack.
_OWN_WORDS = ("decoder_layers", "num_decoder_layers", "num_layers")


def depth_name(config: Any) -> str:
    return next((name for name in _OWN_WORDS if name in vars(config)), "num_hidden_layers")


def depth(config: Any) -> int:
    """Entries of the stack."""
    return int(getattr(config, depth_name(config)))


def set_depth(config: Any, layers: int) -> None:
    setattr(config, depth_name(config), layers)
