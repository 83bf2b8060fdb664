"""An MLP moved downhill, all its matrices together, where no closed form solves for them.

The regressions let a layer read what it used to read and write what is missing. Which neurons would do that best is no
linear question. So before a gap the MLP's matrices follow the gradient of the objective of its write,
Σ ‖out - h[stop]‖²/‖h[stop]‖, by Adam (Kingma and Ba, arXiv 1412.6980). No gradient leaves the layer, and nothing but
the dense model's states is aimed at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowrise.edit.gram import weight_of
from lowrise.edit.sweep import Site
from lowrise.exact import exact_sum
from lowrise.model.matrices import mlp_write
from lowrise.model.neurons import parameters

EPOCHS = 6
# What Adam moves a weight by at most, in root mean squares of its matrix; over √d, so that what the matrix makes moves
# alike in narrow and in wide models.
STEP = 0.5
WARM_UP = 10  # batches, for Adam's second moments


def descend(site: Site) -> bool:
    """The student's MLP becomes what met the held-out tokens best after any epoch, or stays as it is; whether it moved.

    Of a token, the layer is run once an epoch, and its MLP differentiated. Memory: the MLP's parameters in float32 six
    times, and a batch's activations in the layer.
    """
    student, layer = site.student, site.layer
    names = [*parameters(site.decoder, layer), mlp_write(site.decoder, layer).parameter]
    moved = {name: nn.Parameter(student.parameter(layer, name).float().clone()) for name in names}
    fitted, held_out = site.numbers(held=False), site.numbers(held=True)
    optimizer, schedule = _adam(list(moved.values()), site.decoder.hidden_size, max(1, EPOCHS * len(fitted)))
    least = _held_out_error(site, moved, held_out)
    best: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for place in torch.randperm(len(fitted), generator=generator).tolist():
            with torch.enable_grad():
                error = _errors(site, moved, fitted[place]).mean()
                # of these alone: the layer's other parameters, which stay, want no gradient
                gradients = torch.autograd.grad(error, list(moved.values()))
            for value, gradient in zip(moved.values(), gradients, strict=True):
                value.grad = gradient
            optimizer.step()
            schedule.step()
        now = _held_out_error(site, moved, held_out)
        if now < least:
            least, best = now, {name: value.detach().clone() for name, value in moved.items()}
    for name, new in best.items():
        student.change(layer, name, new.to(site.decoder.dtype))
    return bool(best)


def _adam(moved: list[nn.Parameter], d: int, steps: int) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    """Adam, and its way up for the first steps and down to 0 at the last."""
    groups = [
        {"params": [value], "lr": STEP / math.sqrt(d) * float(value.detach().square().mean().sqrt())} for value in moved
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
    )


def _errors(site: Site, moved: dict[str, nn.Parameter], number: int) -> Tensor:
    """‖out - h[stop]‖²/‖h[stop]‖ of a batch, (batch, tokens)."""
    rounded = {name: value.to(site.decoder.dtype) for name, value in moved.items()}
    out, target = site.run(number, site.calls(number), rounded)(), site.target(number)
    return (out.float() - target.float()).square().sum(-1) * weight_of(target)


@torch.no_grad()
def _held_out_error(site: Site, moved: dict[str, nn.Parameter], held_out: list[int]) -> float:
    errors = [_errors(site, moved, number) for number in held_out]
    return float(sum(exact_sum(one) for one in errors)) / max(1, sum(one.numel() for one in errors))
