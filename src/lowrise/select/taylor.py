"""Shortened LLaMA's criterion: the layers whose weights, to first order, matter least to the loss.

https://arxiv.org/abs/2402.02834: Σ |w · ∂L/∂w| over a layer's weights; the first four layers and the last two always
stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.errors import RecipeError
from lowrise.exact import exact_sum
from lowrise.methods import method
from lowrise.model.batching import joined_rows
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.observe.loss import losses_by_piece
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, lowest_allowed, spans_of
from lowrise.select.selection import Selection

_FIRST, _LAST = method("criterion", "taylor").stays


def check(decoder: Decoder, _recipe: Recipe, k: int) -> None:
    """Raises RecipeError where k layers are not among those that may go."""
    layers_that_may_go(len(decoder), k)


def choose(selection: Selection) -> Choice:
    return choose_by_taylor(selection.decoder, selection.windows, selection.count, selection.progress, selection.cuts)


def layers_that_may_go(layers: int, k: int) -> range:
    """All but the first four and the last two. Raises RecipeError where k are not among them."""
    may_go = range(_FIRST, layers - _LAST)
    if k > len(may_go):
        kept = f"the first {_FIRST} and last {_LAST} of {layers} layers always stay"
        raise RecipeError(
            "--remove", f"at most {len(may_go)} layers ({kept})", str(k), "remove fewer, or choose another preset"
        )
    return may_go


def choose_by_taylor(
    decoder: Decoder, windows: Windows, k: int, progress: Reporter, cuts: AllowedCuts | None = None
) -> Choice:
    """The k layers of the least importance; cuts: in all, of the cuts that are allowed. Changes nothing.

    L is the mean next-token loss of all windows, so gradients are summed over batches before their absolute value is
    taken. That takes one gradient of all layers, as large as they are and of their dtype; within a batch layers are
    differentiated one by one from their stored inputs, so that of activations there are the inputs of all layers and
    the inner ones of one. Costs two forward passes and one backward pass.
    """
    may_go = layers_that_may_go(len(decoder), k)
    parameters = [list(layer.parameters()) for layer in decoder.layers]
    gradients: list[list[Tensor | None]] = [[None] * len(own) for own in parameters]
    with progress.bar("gradients", len(windows)) as bar:
        for ids in windows.batches(decoder.batch_tokens):
            _add_gradients(decoder, ids, windows.skipped, parameters, gradients)
            bar.advance(ids.numel(), steps=len(ids))
    importance = [
        sum(float(exact_sum((w.detach() * g).abs())) for w, g in zip(*pair, strict=True) if g is not None)
        / windows.targets
        for pair in zip(parameters, gradients, strict=True)
    ]
    layers, cost = lowest_allowed(importance, k, may_go, cuts or AllowedCuts(len(decoder)), "total importance")
    scores = {"criterion": "taylor", "layers": layers, "importance": importance}
    return Choice(spans_of(layers), scores, cost=cost)


def _add_gradients(
    decoder: Decoder,
    ids: Tensor,
    skipped: int,
    parameters: list[list[torch.nn.Parameter]],
    gradients: list[list[Tensor | None]],
) -> None:
    """Add one batch's ∂(summed loss)/∂w of every layer's parameters to `gradients`, in place.

    skipped: positions at the front that predict nothing.
    """
    with torch.no_grad():
        h, calls = decoder.embed(ids)
        inputs = [h]
        for layer in range(len(decoder)):
            inputs.append(decoder.step(layer, inputs[-1], calls))
    last = inputs.pop().requires_grad_()
    flowing = torch.zeros_like(last)
    for loss in losses_by_piece(decoder, last[:, skipped:], ids[:, skipped:]):
        flowing += torch.autograd.grad(loss, last)[0]
    for layer in reversed(range(len(decoder))):
        flowing, own = _back(decoder, layer, inputs.pop(), calls, parameters[layer], flowing)
        gradients[layer] = [
            _plus(before, more) if before is not None or more is None else decoder.store.keep(more)
            for before, more in zip(gradients[layer], own, strict=True)
        ]


Back = tuple[Tensor, list[Tensor | None]]


def _back(
    decoder: Decoder,
    layer: int,
    h: Tensor,
    calls: list[LayerArguments],
    parameters: list[torch.nn.Parameter],
    flowing: Tensor,
) -> Back:
    """(the gradient by `h`, what enters the layer, those by its parameters); flowing: by what leaves it."""

    def of(rows: slice) -> Back:
        of_rows = calls[layer].of_rows
        part = calls if len(h[rows]) == len(h) or of_rows is None else [*of_rows(rows.start, rows.stop)]
        x = h[rows].requires_grad_()
        by_x, *own = torch.autograd.grad(
            decoder.step(layer, x, part), [x, *parameters], flowing[rows], allow_unused=True
        )
        return by_x, [*own]

    def joined(parts: Sequence[Back]) -> Back:
        own: list[Tensor | None] = [reduce(_plus, of_one) for of_one in zip(*(own for _, own in parts), strict=True)]
        return joined_rows([by_x for by_x, _ in parts]), own

    return decoder.batching.in_parts(len(h), h.shape[1], of, joined)


def _plus(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    """In place of the first, where there is one."""
    if before is None or more is None:
        return more if before is None else before
    return before.add_(more)
