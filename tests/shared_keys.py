"""Tiny models of which the last three layers take keys and values from layers 3 and 4, and what runs of them give."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny
from lowrise.model.decoder import Decoder
from tiny_families import tiny_model

KINDS = ["gemma3n_text", "gemma4_text"]  # several streams with inputs of their own for each layer, and one
LENDERS = {3: "full_attention", 4: "sliding_attention"}
GONE = (2, 5)  # below both and between them and the last two that take


def decoder_of(kind: str) -> Decoder:
    return Decoder(tiny_model(kind))


def save(folder: Path, kind: str) -> Path:
    tiny_model(kind).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def states(decoder: Decoder, ids: Tensor, gone: Collection[int] = ()) -> dict[int, Tensor]:
    """What enters each layer when the model itself runs without those in `gone`; at L what leaves the last."""
    found: dict[int, Tensor] = {}

    def note(layer: int, _module: object, args: tuple[Any, ...], output: Tensor) -> None:
        found[layer] = decoder.form.ours(args[0]).clone()
        found[len(decoder)] = decoder.form.ours(output).clone()

    hooks = [module.register_forward_hook(partial(note, layer)) for layer, module in enumerate(decoder.layers)]
    try:
        with decoder.skipping(gone):
            decoder.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def loss(decoder: Decoder, ids: Tensor, gone: Collection[int] = ()) -> float:
    """Mean next-token cross-entropy without the layers in `gone`, by the model itself."""
    with decoder.skipping(gone):
        return float(decoder.model(input_ids=ids, labels=ids, use_cache=False).loss)
