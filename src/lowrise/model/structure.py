"""Which layers are known by name, and what is found on the others: one layer of each kind is tried."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from lowrise.errors import ModelError
from lowrise.model.blocks import Block, BlockNames, block_of
from lowrise.model.decoder import Decoder
from lowrise.model.discovery import find_blocks, is_read_again
from lowrise.model.layer import Layer
from lowrise.model.lending import probe_calls
from lowrise.model.same_architecture import layer_groups

_BY_NAME: WeakKeyDictionary[Decoder, bool] = WeakKeyDictionary()
_FOUND: WeakKeyDictionary[nn.Module, tuple[BlockNames, ...]] = WeakKeyDictionary()  # by layer


def known_by_name(decoder: Decoder) -> bool:
    """Whether `families.py` knows the matrices of every layer, the stream is one, and none reads what an MLP writes in
    the same layer, as embeddings of its own for every layer are added there. Looked up once: a cut does not change it.
    """
    if decoder not in _BY_NAME:
        named = all(map(_named, map(decoder.layer, range(len(decoder)))))
        _BY_NAME[decoder] = named and not _is_read_again(decoder)
    return _BY_NAME[decoder]


@torch.no_grad()
def _is_read_again(decoder: Decoder) -> bool:
    """Tried on the first layer: whether a matrix is given something else when the MLP's last one makes more; and
    whether there are several streams, of which each is made anew of all.
    """
    layer = decoder.layer(0)
    h, calls = decoder.embed(decoder.probe_ids)
    return h.dim() != 3 or is_read_again(layer, h, calls[0], layer.mlp_output.parameter.removesuffix(".weight"))


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
    """At the first layer of every kind, given what `probe_calls` says."""
    groups = layer_groups(decoder)
    for index, h, calls in probe_calls(decoder):
        first = groups[index]
        layer, same = decoder.layers[index], decoder.layers[first]
        if first != index and _numbers(layer) == _numbers(same):
            _FOUND[layer] = _FOUND[same]
        else:
            _FOUND[layer] = find_blocks(decoder.layer(index), h, calls[index])


def _numbers(layer: nn.Module) -> list[float]:
    """What the layer may multiply by: of parameters and buffers those that are one number."""
    return [float(value) for value in (*layer.parameters(), *layer.buffers()) if value.numel() == 1]
