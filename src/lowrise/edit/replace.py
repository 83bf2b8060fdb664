"""Putting a network in a span's place (LLM-Streamline, arXiv 2403.19135, section 3.2).

`layer` and the portable forms need no new module: the span's first layer stays where it is, is re-initialised as
far as the form asks, and is trained there. The published forms hang a small network on the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.model.networks import SpanNetwork, random_network
from lowrise.plan import Replace


def _nothing() -> None:
    pass


@dataclass
class Trainee:
    """A network in float32 to be trained, and how it gets into the model.

    forward: h[start] (batch, tokens, hidden) and the layers' calls → an estimate of h[stop].
    before_step: called between backward and the optimiser's step.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    forward: Callable[[Tensor, list[LayerArguments]], Tensor]
    install: Callable[[], None]
    before_step: Callable[[], None] = _nothing


def check_replacement(decoder: Decoder, edit: Replace) -> None:
    """Refuse, before any pass is run, what cannot be put back.

    Raises RecipeError for a portable form that the family's MLP cannot take, and for a span of all layers in whose
    place no decoder layer would stand.
    """
    if not edit.in_a_layer and edit.stop - edit.start >= len(decoder):
        raise RecipeError(
            "--remove",
            "a span that leaves one decoder layer beside the network",
            f"all {len(decoder)} layers in the span",
            "remove one layer less, or use --form portable",
        )
    if edit.form == "portable" and edit.network == "swiglu" and not decoder.layer(edit.start).names.gated:
        raise RecipeError(
            f"--network swiglu --form portable on {decoder.family}",
            "a family with a gated MLP",
            "an MLP of two matrices",
            "use the network ffn, or the paper form",
        )


def make_trainee(decoder: Decoder, edit: Replace, seed: int) -> Trainee:
    """The network that `edit` asks for, not yet trained.

    `layer` and the portable forms change layer `edit.start` of the model itself: take the dense model's states first.
    """
    if not edit.in_a_layer:
        return _published(decoder, edit, seed)
    dtype, layer = decoder.dtype, decoder.layers[edit.start].float()
    before_step = _nothing if edit.network == "layer" else _make_portable(decoder, edit, seed)

    def install() -> None:
        layer.to(dtype)
        if edit.stop > edit.start + 1:
            decoder.drop(edit.start + 1, edit.stop)

    frozen: set[int] = set()
    if edit.network != "layer":
        frozen = {id(p) for p in layer.get_submodule(decoder.layer(edit.start).names.attention_output).parameters()}
    return Trainee(
        module=layer,
        parameters=[p for p in layer.parameters() if id(p) not in frozen],
        forward=lambda h, calls: decoder.step(edit.start, h, calls),
        install=install,
        before_step=before_step,
    )


def network_shape(decoder: Decoder, edit: Replace) -> tuple[int, str]:
    """(intermediate size, activation) of a published-form network: 4d and ReLU, or the family's own MLP's."""
    if edit.network == "ffn":
        return 4 * decoder.hidden_size, "relu"
    layer = decoder.layer(edit.start)
    names = layer.names
    intermediate = _weight(layer.module.get_submodule(names.mlp_output)).numel() // decoder.hidden_size
    config = decoder.config
    own = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return intermediate, str(own) if names.gated and own else "silu"


def network_parameters(decoder: Decoder, edit: Replace) -> int:
    """What a network that is no decoder layer adds to the model; 0 for one that is."""
    if edit.in_a_layer:
        return 0
    intermediate, _ = network_shape(decoder, edit)
    d = decoder.hidden_size
    return 2 * d * intermediate + intermediate + d if edit.network == "ffn" else 3 * d * intermediate


def _published(decoder: Decoder, edit: Replace, seed: int) -> Trainee:
    network: SpanNetwork = random_network(edit.network, decoder.hidden_size, *network_shape(decoder, edit), seed)
    network.to(decoder.device)

    def install() -> None:
        decoder.drop(edit.start, edit.stop)
        decoder.attach(network.to(decoder.dtype), edit.start)

    return Trainee(network, list(network.parameters()), lambda h, _calls: network(h), install)


def _make_portable(decoder: Decoder, edit: Replace, seed: int) -> Callable[[], None]:
    """Let the layer's attention write nothing and its MLP start at random; norms and residual stay the family's.

    An `ffn` in a gated MLP has one matrix for gate and up, so its activation is z·act(z): what is returned keeps the
    two equal by giving both the sum of their gradients.
    """
    layer, names = decoder.layers[edit.start], decoder.layer(edit.start).names
    for parameter in layer.get_submodule(names.attention_output).parameters():
        nn.init.zeros_(parameter)
    inputs = [_weight(layer.get_submodule(name)) for name in names.mlp_inputs]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in (*names.mlp_inputs, names.mlp_output):
            for parameter in layer.get_submodule(name).parameters():
                _initialise(parameter, fan_in=_fan_in(layer.get_submodule(name)))
    if edit.network == "swiglu" or not names.gated:
        return _nothing
    gate, up = _halves([weight.detach() for weight in inputs])
    up.copy_(gate)

    def share_gradients() -> None:
        gate, up = _halves([weight.grad for weight in inputs if weight.grad is not None])
        gate.add_(up)
        up.copy_(gate)

    return share_gradients


def _halves(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Gate and up, (intermediate, hidden) each, of two matrices or of one that holds both."""
    gate, up = matrices if len(matrices) == 2 else matrices[0].chunk(2, dim=0)
    return gate, up


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


def _fan_in(module: nn.Module) -> int:
    # GPT-2's Conv1D keeps its weight as (in, out)
    return int(_weight(module).shape[1 if isinstance(module, nn.Linear) else 0])


def _initialise(parameter: Tensor, fan_in: int) -> None:
    """torch's own initialisation of a Linear, weight and bias alike: U(-1/√fan_in, 1/√fan_in)."""
    nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
