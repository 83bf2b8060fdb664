"""Block reconstruction: a layer is trained by itself where no closed form solves for its first matrices.

The regressions let a layer read what it used to read and write what is missing. Which neurons would do that best, and
which tokens should be looked at, are no linear questions. So before a gap all matrices of the layer follow the gradient
of the objective of its write, Σ ‖out - h[stop]‖²/‖h[stop]‖, by Adam (Kingma and Ba, arXiv 1412.6980). No gradient
leaves the layer, and nothing but the dense model's states is aimed at. So of a layer that lends its keys and values to
others, what these are made of stays: here nobody asks whether the others still read what they used to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lowrise.edit.layerwise_pass import LayerContext
from lowrise.edit.writing import errors_of, held_out_error
from lowrise.model.lending import leading
from lowrise.model.structure import known_by_name

EPOCHS = 3  # at most
STEPS = 340  # enough of them: with many tokens fewer epochs make as many, two at least
IN_VAIN = 2  # epochs after which it is given up, if held-out tokens are no nearer after any
STEP_TOKENS = 512  # of a step, about, however many tokens a batch has
# What a step moves a weight by at most, in root mean squares of its matrix; over √d, so that what the matrix makes
# moves alike in narrow and in wide models. Attention is unstable at three times its own.
RATE, ATTENTION_RATE = 0.5, 0.25
WARM_UP = 10  # steps, for Adam's second moments


@torch.no_grad()
def reconstruct_block(context: LayerContext) -> tuple[float, float]:
    """The student's layer becomes what met the held-out tokens best after any epoch, or stays.

    Returned is the mean error of a held-out token before and after; equal where the layer stays.

    Of a token, the layer is run and differentiated once an epoch, two or three times. What its own code keeps gradients
    from stays as it is. Memory: its matrices in float32 six times, and the activations of a step in the layer.
    """
    rates = _rates(context)
    moved = {name: nn.Parameter(context.parameter(name).float().clone()) for name in rates}
    fitted = context.numbers(held=False)
    an_epoch = max(1, sum(context.count(number, STEP_TOKENS) for number in fitted))
    epochs = min(context.most_epochs or EPOCHS, max(2, math.ceil(STEPS / an_epoch)), EPOCHS)
    optimizer, schedule = _adam([(value, rates[name]) for name, value in moved.items()], max(1, epochs * an_epoch))
    before = least = held_out_error(context, _rounded(context, moved))
    best: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for place in torch.randperm(len(fitted), generator=generator).tolist():
            for errors in _errors(context, moved, fitted[place]):
                if not errors.requires_grad:
                    return before, before
                # of the errors' sum, and of these parameters alone: those that stay want no gradient
                ones = torch.ones_like(errors)
                gradients = torch.autograd.grad(errors, list(moved.values()), ones, allow_unused=True)
                for value, gradient in zip(moved.values(), gradients, strict=True):
                    value.grad = gradient
                optimizer.step()
                schedule.step()
        now = held_out_error(context, _rounded(context, moved))
        if now < least:
            least, best = now, {name: value.detach().clone() for name, value in moved.items()}
        if not best and epoch + 1 == IN_VAIN:
            break
    context.set_weights(_rounded(context, best))
    return before, least


def _rates(context: LayerContext) -> dict[str, float]:
    """By path in the layer, of every parameter that moves."""
    if known_by_name(context.decoder):
        layer = context.dense_layer
        attention = [matrix.parameter for matrix in (*layer.attention_inputs, layer.attention_output)]
        mlp = [*layer.neuron_parameters, layer.mlp_output.parameter, *layer.norm_scales]
    else:
        *inner, last = context.blocks
        attention, mlp = [path for block in inner for path in block.parameters], list(last.parameters)
    rates = dict.fromkeys(attention, ATTENTION_RATE) | dict.fromkeys(mlp, RATE)
    lent = leading(context.decoder, context.layer)
    scale = math.sqrt(context.decoder.hidden_size)
    return {name: rate / scale for name, rate in rates.items() if name not in lent}


def _adam(
    moved: list[tuple[nn.Parameter, float]], steps: int
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    """Adam, and its rates, up in the first steps and down to 0 at the last."""
    groups = [{"params": [value], "lr": rate * float(value.detach().square().mean().sqrt())} for value, rate in moved]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
    )


def _errors(context: LayerContext, moved: Mapping[str, Tensor], number: int) -> Iterator[Tensor]:
    """‖out - h[stop]‖²/‖h[stop]‖, (rows, tokens), of a batch, so many tokens at a time as make a step."""
    for h, target, calls in context.pieces(number, STEP_TOKENS):
        with torch.enable_grad():
            out = context.step(h, calls, _rounded(context, moved))
            errors = errors_of(target.flatten(2), (out.float() - target.float()).flatten(2))
        yield errors


def _rounded(context: LayerContext, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(context.decoder.dtype) for name, value in moved.items()}
