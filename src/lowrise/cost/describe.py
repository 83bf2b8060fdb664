"""Models into shapes: of one that is open, or of a config alone, with one random layer of that config to time."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lowrise.cost.shape import ModelShape
from lowrise.errors import ModelError, reason
from lowrise.model.batching import is_out_of_memory
from lowrise.model.decoder import Decoder
from lowrise.model.depth import depth, depth_name
from lowrise.model.neurons import neurons_apart
from lowrise.model.stack import count_of_layers, find_stack
from lowrise.model.structure import known_by_name
from lowrise.model.wrappers import auto_class

_ROWS = 4096  # of the vocabulary of the model with one layer
# What configs call the width of an MLP, of one expert first.
_INNER = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff")


def shape_of(decoder: Decoder, name: str, stored: int) -> ModelShape:
    """stored: bytes of a number in the file that is written."""
    found = _counted(decoder.model, decoder.layers, decoder.config, name)
    return _with(found, decoder, decoder.dtype.itemsize, stored)


def shape_and_layer(
    config: Any, name: str, *, compute: torch.dtype, stored: int, device: torch.device
) -> tuple[ModelShape, Decoder]:
    """Of a config: its shape, counted on a model without numbers, and a random model of one of its layers, whose head
    has fewer rows. Raises ModelError for a config that none can be made of.
    """
    text = config.get_text_config(decoder=True)
    try:
        with torch.device("meta"):
            whole = auto_class(config).from_config(config)
        layers = whole.get_submodule(find_stack(whole, count_of_layers(text, name), name))
        found = _counted(whole, layers, text, name)
        with torch.random.fork_rng(devices=[]):
            made = AutoModelForCausalLM.from_config(_of_one_layer(text), dtype=compute).to(device).eval()
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            name, "a config that a random layer can be made of", reason(error), "open the model"
        ) from error
    decoder = Decoder(made, name)
    return _with(found, decoder, compute.itemsize, stored), decoder


def _widest(value: Any) -> int:
    """Some families have a width for each layer."""
    return int(max(value) if isinstance(value, list | tuple) else value)


def _counted(model: Any, layers: Any, config: Any, name: str) -> ModelShape:
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    total = sum(parameter.numel() for parameter in model.parameters())
    hidden = int(config.hidden_size)
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    inner = next((_widest(value) for one in _INNER if (value := getattr(config, one, None))), 4 * hidden)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return ModelShape(
        name=name,
        layers=len(sizes),
        hidden=hidden,
        inner=inner,
        heads=heads,
        key_heads=key_heads,
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        vocabulary=int(embedding.weight.shape[0]),
        layer_parameters=sum(sizes) / len(sizes),
        rest=total - sum(sizes),
        tied=head is not None and head.weight is embedding.weight,
        longest=int(getattr(config, "max_position_embeddings", None) or 2**31),
    )


def _with(shape: ModelShape, decoder: Decoder, compute: int, stored: int) -> ModelShape:
    from dataclasses import replace

    inner = decoder.layer(0).neuron_count if known_by_name(decoder) else shape.inner
    return replace(shape, compute=compute, stored=stored, inner=inner, moves=neurons_apart(decoder))


def _of_one_layer(config: Any) -> Any:
    """The same with the middle layer alone, as its settings list it, and a small vocabulary."""
    about = copy.deepcopy(config.to_dict())
    layers = depth(config)
    middle = layers // 2
    lists = {
        key: value[middle : middle + 1]
        for key, value in about.items()
        if isinstance(value, list) and len(value) == layers and layers > 1
    }
    about |= {**lists, depth_name(config): 1, "pad_token_id": None}
    about["vocab_size"] = min(int(about["vocab_size"]), _ROWS)
    return type(config).from_dict(about)
