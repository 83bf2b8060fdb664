"""The number format that healing computes in, where nothing says which."""

from __future__ import annotations

import os
from typing import Literal, get_args

import torch

from lowrise.settings import Precision

_SAID = "ACCELERATE_MIXED_PRECISION"  # what `accelerate launch` sets, "no" where it was not asked for one
_KNOWN: tuple[Precision, ...] = get_args(Precision)


def is_said(asked: Precision | Literal["auto"]) -> bool:
    """Whether a recipe (`asked`) says it, or the launcher that it is another than float32."""
    return asked != "auto" or os.environ.get(_SAID) in ("bf16", "fp16")


def precision_of(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """What a healing begins to compute in, where a recipe says `asked`."""
    return usual_precision(device) if asked == "auto" else asked


def usual_precision(device: torch.device) -> Precision:
    """What `accelerate launch` says; else bfloat16 on accelerators, and on processors that multiply it in hardware.

    The launcher says "no" of its own accord too, so on an accelerator that says nothing. A processor without matrix
    instructions (AMX) is slower in bfloat16 than in float32, and keeps to float32; so it does in float16.
    """
    said = next((one for one in _KNOWN if one == os.environ.get(_SAID)), None)
    if device.type != "cpu":
        return "bf16" if said in (None, "no") else said
    if said in ("no", "bf16"):
        return said
    return "bf16" if torch.cpu._is_amx_tile_supported() else "no"
