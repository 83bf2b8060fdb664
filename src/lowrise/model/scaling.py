"""The residual stream made longer or shorter by a factor: which weights that takes in every family.

Layers read the stream through norms, which take its length away again (but for their ε). So from h[0] on everything is
as before when the embeddings and all that layers write are scaled alike: matrices and biases of writes, or the scale of
the norm behind them (Gemma-2 and 3, OLMo-2, GLM-4). Where layers read the stream raw (OLMo-2), what they read with is
divided. Where the head shares the embedding's matrix, the last norm's weight is divided instead: the logits stay, and
so do the files' layout and the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.layer import Layer
from lowrise.model.matrices import close

# Two scales at which a model is tried: so large that no norm's ε counts, powers of two so that rounding is the same.
_LOW, _HIGH = 64.0, 256.0
_REMEDY = "choose another --repair, such as ghosted, which asks nothing of the family"


def scaled_layer(layer: Layer, by: float, parameter: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The parameters by path with which a layer writes `by` times as much to a stream of `by` times the length.

    parameter: the layer's, by path, as they are now.
    """
    made: dict[str, Tensor] = {}
    for write, norm in ((layer.attention_output, layer.attention_norm), (layer.mlp_output, layer.mlp_norm)):
        if norm is not None:
            own = parameter(norm.parameter)
            made[norm.parameter] = norm.weight(by * norm.scale(own)).to(own.dtype)
            continue
        module = write.parameter.removesuffix(".weight")
        for name, _ in write.module.named_parameters():
            path = f"{module}.{name}"
            made[path] = _times(parameter(path), by)
    if layer.reads_raw:
        for matrix in (*layer.attention_inputs, *layer.mlp_inputs):
            made[matrix.parameter] = _times(parameter(matrix.parameter), 1 / by)
    return made


@torch.no_grad()
def scale_embeddings(decoder: Decoder, by: float) -> None:
    """h[0] `by` times as long, in place; a head that shares the matrix makes the same logits as before."""
    if _is_tied(decoder):
        norm = _last_norm(decoder)
        for name, value in _norm_scaled(norm, 1 / by, _added(decoder, norm)).items():
            norm.get_parameter(name).copy_(value)
    for embedding in _embeddings(decoder):
        embedding.weight.copy_(_times(embedding.weight, by))


@torch.no_grad()
def check_scaling(decoder: Decoder) -> None:
    """Raises ModelError for a model whose stream cannot be scaled exactly: layers of unknown matrices (mixtures of
    experts), a norm behind the embeddings or in the stream itself.

    What is known by names alone is tried: the embeddings, the first layer, and the last norm where it is needed.
    """
    for layer in map(decoder.layer, range(len(decoder))):
        _ = layer.attention_inputs, layer.mlp_inputs, layer.attention_output, layer.mlp_output
    low, high = (_tried(decoder, by) for by in (_LOW, _HIGH))
    for what, one, other in (("embeddings", low[0], high[0]), ("layers", low[1], high[1])):
        expected = (_HIGH / _LOW) * one
        if not close(other, expected):
            raise _refusal(decoder, f"{what} that grow as the weights that make them", "others")
    if _is_tied(decoder):
        _added(decoder, _last_norm(decoder))


def _tried(decoder: Decoder, by: float) -> tuple[Tensor, Tensor]:
    """(h[0], what the first layer adds to it), all scaled by `by`, in float32."""
    weights = [embedding.weight for embedding in _embeddings(decoder)]
    named = decoder.base.named_parameters()
    instead = {name: _times(own, by) for name, own in named if any(own is one for one in weights)}
    h, calls = decoder.embed(decoder.probe_ids, instead)
    first = decoder.layer(0)
    out = first.call(h, calls[0], scaled_layer(first, by, first.parameter))
    return h.float(), out.float() - h.float()


def _embeddings(decoder: Decoder) -> list[nn.Embedding]:
    """Of tokens, and of positions where those are learned."""
    return [child for child in decoder.owner.children() if isinstance(child, nn.Embedding)]


def _is_tied(decoder: Decoder) -> bool:
    head = decoder.model.get_output_embeddings()
    return head is not None and head.weight is decoder.model.get_input_embeddings().weight


def _last_norm(decoder: Decoder) -> nn.Module:
    """Behind the layers. Raises ModelError where it is not the one norm beside them."""
    found = [child for child in decoder.owner.children() if _is_norm(child)]
    if len(found) != 1:
        raise _refusal(
            decoder, "one norm behind the layers", f"{len(found)} beside them, and a head tied to the embedding"
        )
    return found[0]


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return "weight" in own and own.keys() <= {"weight", "bias"} and all(value.dim() == 1 for value in own.values())


def _added(decoder: Decoder, norm: nn.Module) -> float:
    """What the norm adds to its weight before it scales by it, 0 or 1: tried at a scale that tells them apart."""
    h, _ = decoder.embed(decoder.probe_ids)
    expected = norm(h).float() / _LOW
    for added in (0.0, 1.0):
        found = functional_call(norm, _norm_scaled(norm, 1 / _LOW, added), (h,)).float()
        if close(found, expected):
            return added
    raise _refusal(decoder, "a last norm that scales by its weight", f"a {type(norm).__name__}, and a tied head")


def _norm_scaled(norm: nn.Module, by: float, added: float) -> dict[str, Tensor]:
    """Its parameters by name with which it makes `by` times as much."""
    made = {name: _times(value, by) for name, value in norm.named_parameters()}
    weight = norm.get_parameter("weight")
    made["weight"] = (by * (weight.detach().float() + added) - added).to(weight.dtype)
    return made


def _times(value: Tensor, by: float) -> Tensor:
    return (by * value.detach().float()).to(value.dtype)


def _refusal(decoder: Decoder, expected: str, found: str) -> ModelError:
    return ModelError(f"{decoder.where}: magnitude repair of family {decoder.family}", expected, found, _REMEDY)
