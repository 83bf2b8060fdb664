"""Which models can be refit, and how much of them."""

from __future__ import annotations

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import attention_write, check_writes, reads
from lowrise.model.norms import norms_as_known


def refit_support(decoder: Decoder) -> bool:
    """Whether layers can be refit in what they write too, or in what they read alone.

    They can where `check_writes` passes and where a norm stands behind the matrices that is as `model/norms.py` says.
    Raises ModelError for a model with a layer whose matrices are not known.
    """
    for layer in range(len(decoder)):
        reads(decoder, layer)
        attention_write(decoder, layer)
    try:
        check_writes(decoder)
    except ModelError:
        return norms_as_known(decoder)
    return True
