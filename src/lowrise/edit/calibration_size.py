"""Whether the tokens of a calibration are enough for the widest matrix that is solved on them, and what would be."""

from __future__ import annotations

import math

from lowrise.calibration import Windows
from lowrise.edit.block_write import BlockWrite
from lowrise.edit.gram import ENOUGH
from lowrise.model.decoder import Decoder
from lowrise.model.structure import blocks_of, known_by_name


def note_on_size(decoder: Decoder, windows: Windows, held_out: int) -> str | None:
    """A sentence where few tokens are fitted; None where they are enough. held_out: so many of the windows."""
    inputs, fitted = widest_write(decoder), windows.cut(len(windows) - held_out)[0]
    if fitted.tokens >= ENOUGH * inputs or not len(fitted):
        return None
    enough = math.ceil(ENOUGH * inputs * len(windows) / fitted.tokens)
    return (
        f"{fitted.tokens:,} tokens are fitted, {fitted.tokens / inputs:.1f} for each of {inputs:,} inputs of the "
        f"widest matrix that writes the stream; up to {ENOUGH:g} more help: --samples {enough:,} would bring as many"
    )


def widest_write(decoder: Decoder) -> int:
    """Inputs of the widest matrix that writes the stream in the last layer, experts' left out: not all tokens are
    theirs.
    """
    layer = decoder.layer(len(decoder) - 1)
    if known_by_name(decoder):
        return max(
            len(one.matrix(layer.parameter(one.parameter))) for one in (layer.attention_output, layer.mlp_output)
        )
    units = [unit for block in blocks_of(decoder, layer.index) for unit in BlockWrite(block, layer.parameter).units()]
    return max([unit.inputs for unit in units if unit.expert is None], default=0)
