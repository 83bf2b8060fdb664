"""Tensors of a checkpoint that its model does not take: harmless ones, and the sign of a wrong config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lowrise.errors import ModelError
from lowrise.model.depth import depth

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Layers behind the stack that predict the tokens after the next one, in the words of the families that have them.
# They are no part of what a causal model computes, and stay behind.
PREDICTING = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "mtp_num_hidden_layers")
# Layers that are no part of the stack: those that predict, and towers of other inputs, numbered for themselves.
_ELSEWHERE = re.compile(r"(^|[._])(mtp|nextn|eagle|draft|vision|visual|audio)[._]")


def notes_of_extras(unexpected: Iterable[str], config: Any, source: str) -> list[str]:
    """What to tell the user of tensors that stock transformers leaves unread; none where it reads all.

    Raises ModelError for those of layers beyond the stack that no setting explains: config.json counts too few.
    """
    layers = depth(config)
    predicting = max([int(getattr(config, name, None) or 0) for name in PREDICTING], default=0)
    ignored = sorted(unexpected)
    beyond = [
        name
        for name in ignored
        if not _ELSEWHERE.search(name)
        and (match := _LAYER.search(name)) is not None
        and int(match[1]) >= layers + predicting
    ]
    if beyond:
        found, expected = f"{beyond[0]} too", f"weights of the {layers} layers in config.json alone"
        raise ModelError(source, expected, found, "mend config.json")
    if not ignored:
        return []
    rest = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
    return [f"{ignored[0]}{rest} in {source} belong to no part of the model and are left out, as transformers does"]


def forget_predicting(config: Any) -> None:
    """Say in `config` that no such layers are there: they are not written."""
    for name in PREDICTING:
        if getattr(config, name, None):
            setattr(config, name, 0)
