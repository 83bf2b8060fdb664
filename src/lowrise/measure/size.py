"""Layers, parameters and bytes."""

from __future__ import annotations

import torch

from lowrise.model.decoder import Decoder
from lowrise.results import MeasuredModel


def size(decoder: Decoder, dtype: torch.dtype) -> MeasuredModel:
    """Layers (a network in a span's place is one), parameters (shared ones once), bytes of weights in `dtype`."""
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (decoder.model.get_input_embeddings(), decoder.model.get_output_embeddings())
        if module is not None
    }
    total = decoder.parameters()
    return MeasuredModel(
        layers=decoder.depth,
        parameters=total,
        parameters_embeddings=sum(embeddings.values()),
        bytes=total * dtype.itemsize,
        dtype=str(dtype).removeprefix("torch."),
    )
