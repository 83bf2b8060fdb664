"""Which models can be refit, and how much of them: what is known of a layer by names is tried on the first one."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured, close
from lowrise.model.structure import blocks_of, known_by_name

TIMES = 256  # so much larger a matrix or a norm is tried; within what float16 can hold


def refit_support(decoder: Decoder) -> bool:
    """Whether layers can be refit in what they write too, or in what they read alone.

    They can where `check_writes` passes and where a norm stands behind the matrices that is as `norms_as_known` says.
    Where not all layers are known by name: what is found on them. Raises ModelError for a model with a layer of which
    neither a matrix is known that reads the stream nor one that writes it.
    """
    if not known_by_name(decoder):
        blocks = [blocks_of(decoder, layer) for layer in range(len(decoder))]
        if not all(blocks):
            layer = decoder.layer(blocks.index(()))
            expected, found = "decoder layers with a matrix that reads or writes the stream", "none in"
            raise layer.refusal(expected, f"{found} layer {layer.index}, a {type(layer.module).__name__}")
        return any(bool(last.writes) for *_, last in blocks)
    try:
        check_writes(decoder)
    except ModelError:
        return norms_as_known(decoder)
    return True


def check_writes(decoder: Decoder) -> None:
    """Raises ModelError as `Layer.mlp_write` does, and unless every MLP writes to the stream what its matrix makes.

    That the stream takes it as it is, neither scaled nor normed, is seen from names for known families alone; so the
    first layer is run with its matrix so many times itself that rounding of the stream is nothing beside what it
    writes, and must write that much more. Where not all layers are known by name, this is found on one of each kind.
    """
    if not known_by_name(decoder):
        for index in range(len(decoder)):
            blocks = blocks_of(decoder, index)
            if not blocks or not blocks[-1].writes or blocks[-1].norm is not None:
                layer = decoder.layer(index)
                found = f"none in layer {index}, a {type(layer.module).__name__}"
                raise layer.refusal("last matrices whose output is added to the stream as it is", found)
        return
    check_output_matrix(decoder)


def check_output_matrix(decoder: Decoder) -> None:
    """The same of MLPs that are known by name alone, as one matrix each."""
    write, *_ = [decoder.layer(layer).mlp_write for layer in range(len(decoder))]
    first = decoder.layer(0)
    h, calls = decoder.embed(decoder.probe_ids)
    weight = first.parameter(write.parameter)
    with captured(write.module) as inputs, torch.no_grad():
        out = first.call(h, calls[0]).float()
        more = first.call(h, calls[0], {write.parameter: TIMES * weight}).float() - out
        expected = (TIMES - 1) * (inputs[0].float() @ write.matrix(weight).float()).view_as(out)
    if not close(more, expected):
        raise first.refusal("an MLP whose output is added to the stream as it is", "one that is scaled or normed first")


@torch.no_grad()
def norms_as_known(decoder: Decoder) -> bool:
    """Whether the first layer's norms are as `model/norms.py` says, each behind its matrix, and the stream takes what
    the MLP's makes as it is. Tried: with v so many times as large that rounding of the stream is nothing beside it, so
    much more must be added.
    """
    first = decoder.layer(0)
    mlp, attention = first.mlp_norm, first.attention_norm
    if mlp is None or attention is None:
        return False
    pairs = [(first.attention_output, attention), (first.mlp_output, mlp)]
    for matrix, norm in pairs:
        weights = [name for name, _ in norm.module.named_parameters()]
        if weights != ["weight"] or getattr(matrix.module, "bias", None) is not None:
            return False
    h, calls = decoder.embed(decoder.probe_ids)
    weight = first.parameter(mlp.parameter)
    larger = mlp.weight(TIMES * mlp.scale(weight)).to(weight.dtype)
    with ExitStack() as stack:
        caught = [[stack.enter_context(captured(one.module)) for one in pair] for pair in pairs]
        out = first.call(h, calls[0])
    seen = []
    for (matrix, norm), (inputs, given) in zip(pairs, caught, strict=True):
        y = inputs[0].float() @ matrix.matrix(first.parameter(matrix.parameter)).float()
        made = norm.of(y, first.parameter(norm.parameter))
        scaled = y * norm.scale(first.parameter(norm.parameter))
        seen += [(given[0].float(), y), (made, scaled * (made.norm(dim=-1) / scaled.norm(dim=-1)).unsqueeze(-1))]
    more = first.call(h, calls[0], {mlp.parameter: larger}).float() - out.float()
    seen.append((more, (TIMES - 1) * made))
    return all(close(one.view_as(other), other) for one, other in seen)
