"""Which layers are known by name, and what is found on the others: one layer of each kind is tried."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from lowrise.errors import ModelError
from lowrise.model.blocks import Block, BlockNames, block_of
from lowrise.model.decoder import Decoder
from lowrise.model.discovery import find_blocks
from lowrise.model.layer import Layer
from lowrise.model.same_architecture import layer_groups

_BY_NAME: WeakKeyDictionary[Decoder, bool] = WeakKeyDictionary()
_FOUND: WeakKeyDictionary[nn.Module, tuple[BlockNames, ...]] = WeakKeyDictionary()  # by layer


def known_by_name(decoder: Decoder) -> bool:
    """Whether `families.py` knows the matrices of every layer. Looked up once: a cut does not change it."""
    if decoder not in _BY_NAME:
        _BY_NAME[decoder] = all(map(_named, map(decoder.layer, range(len(decoder)))))
    return _BY_NAME[decoder]


def _named(layer: Layer) -> bool:
    try:
        _ = layer.attention_inputs, layer.mlp_inputs, layer.attention_output
    except ModelError:
        return False
    return True


def blocks_of(decoder: Decoder, index: int) -> tuple[Block, ...]:
    """Of one layer, whatever its family."""
    layer = decoder.layers[index]
    if layer not in _FOUND:
        _look(decoder)
    return tuple(block_of(layer, names) for names in _FOUND[layer])


@torch.no_grad()
def _look(decoder: Decoder) -> None:
    """At the first layer of every kind, the stream that enters the stack given to each."""
    h, calls = decoder.embed(decoder.probe_ids)
    for index, first in enumerate(layer_groups(decoder)):
        if first == index:
            _FOUND[decoder.layers[index]] = find_blocks(decoder.layer(index), h, calls[index])
        else:
            _FOUND[decoder.layers[index]] = _FOUND[decoder.layers[first]]
