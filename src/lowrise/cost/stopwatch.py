"""What timing one layer stands on: a stopwatch, states that enter the layer, a pass forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lowrise.measure.speed import now
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments

FEWEST = 128  # tokens of a timed pass
_ROUNDS = 2  # that count; one goes before them
Computing = Callable[[], AbstractContextManager[Any]]
"""A number format, as autocast has it."""


class Stopwatch:
    """Of the device that a decoder lies on."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def of(self, work: Callable[[], object]) -> float:
        """Seconds, the least of some rounds: what else the machine does only adds to them."""
        work()
        found = []
        for _ in range(_ROUNDS):
            began = now(self._decoder)
            work()
            found.append(now(self._decoder) - began)
        return max(min(found), 1e-9)


def ids_of(decoder: Decoder, tokens: int, length: int) -> Tensor:
    """(windows, length) of about so many tokens, each known to the model."""
    known = int(decoder.model.get_input_embeddings().weight.shape[0])
    rows = max(1, tokens // length)
    return torch.arange(rows * length).remainder(known).view(rows, length)


def tokens_at_once(decoder: Decoder, budget: float, parameters: int, most: int) -> int:
    """Tokens of one timed pass. budget: its operations on a processor, about, the way forward; parameters: that a token
    meets, for two operations each. An accelerator is given as many tokens as there may be.
    """
    if decoder.device.type != "cpu":
        return most
    return int(min(most, max(FEWEST, budget / (2 * max(1, parameters)))))


def entering(decoder: Decoder, tokens: int, length: int) -> tuple[Tensor, list[LayerArguments]]:
    """States of such windows (windows, length, hidden), and the model's calls of its layers."""
    return decoder.embed(ids_of(decoder, tokens, length))


def learning(
    decoder: Decoder,
    layer: int,
    h: Tensor,
    calls: list[LayerArguments],
    computing: Computing = nullcontext,
) -> Callable[[], None]:
    """A pass forward and backward, of the layer's weights in the format of h. computing: around what goes forward."""
    own = {
        name: value.detach().to(h.dtype).requires_grad_()
        for name, value in decoder.layers[layer].named_parameters()
        if value.is_floating_point()
    }

    def work() -> None:
        with torch.enable_grad():
            with computing():  # anew each time: it keeps casts of weights as long as it lasts
                out = decoder.step(layer, h, calls, own).float().square().sum()
            torch.autograd.grad(out, list(own.values()), allow_unused=True)

    return work
