"""What a student is trained for, without the matrix of (tokens × vocabulary) logits ever being whole in memory.

Per position, with q the student's softmax: `kl` of `heal/divergence.py`, and ce = -log q(the token that follows), at
temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowrise.heal.divergence import Answers, Targets, kl
from lowrise.heal.head import chunks, head
from lowrise.model.decoder import Decoder


@dataclass(frozen=True)
class Goal:
    """kl: share of kl in the loss, the rest is ce. temperature: of kl."""

    kl: float
    temperature: float = 1.0


NEXT_TOKEN = Goal(kl=0.0)


def counted_positions(counted: Tensor) -> Tensor:
    """(windows, length) of tokens that are targets → (windows, length - 1) of positions that predict one."""
    return counted[:, 1:]


class StudentLoss(nn.Module):
    """A student and its loss as one module, so that DDP and FSDP wrap both."""

    def __init__(self, decoder: Decoder, goal: Goal, checkpointing: bool = False) -> None:
        super().__init__()
        self.model = decoder.model
        self.decoder, self.goal, self._checkpointing = decoder, goal, checkpointing
        self._no_split_modules = sorted({type(layer).__name__ for layer in decoder.layers})  # what FSDP gathers at once
        # by place, for FSDP exchanges the parameters themselves while it works
        self._outer = [
            (module, name)
            for path, module in decoder.model.named_modules()
            if not f"{path}.".startswith(f"{decoder.layers_path}.")
            for name in module._parameters
        ]

    def forward(self, ids: Tensor, counted: Tensor, targets: Answers | None = None) -> Tensor:
        """ids, counted: (windows, length). targets: of the counted positions, in order; None: the loss is ce alone.

        The sum of the losses over the counted positions, float32.
        """
        decoder, goal = self.decoder, self.goal if targets is not None else NEXT_TOKEN
        ids = ids.long()
        h, calls = decoder.embed(ids)
        for layer in range(len(decoder)):
            if self._checkpointing and torch.is_grad_enabled():
                h = checkpoint(decoder.step, layer, h, calls, use_reentrant=False)
            else:
                h = decoder.step(layer, h, calls)
        positions = counted_positions(counted).to(h.device)
        following = ids[:, 1:].to(h.device)[positions]
        found = {id(tensor): tensor for tensor in (getattr(*place) for place in self._outer) if tensor is not None}
        learning = [tensor for tensor in found.values() if tensor.requires_grad]
        backward = torch.is_grad_enabled()
        apply: Any = _HeadLoss.apply
        loss: Tensor = apply(h[:, :-1][positions], decoder, goal, following, targets, backward, *learning)
        return loss


class _HeadLoss(torch.autograd.Function):
    """Final norm, head and loss, chunk by chunk; gradients are taken in the forward pass, where a chunk's logits are at
    hand, so that none are kept and none computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        decoder: Decoder,
        goal: Goal,
        following: Tensor,
        targets: Answers | None,
        backward: bool,
        *learning: Tensor,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float64 if h.device.type != "mps" else torch.float32, device=h.device)
        own = torch.zeros_like(h) if backward else None
        gradients: list[Tensor | None] = [None] * len(learning)
        for part in chunks(decoder, len(h)):
            with torch.set_grad_enabled(backward):
                x = h[part].detach().requires_grad_(backward)
                logits = head(decoder, x)
            answers = None if targets is None else targets.at(part, h.device)
            losses, slope = _losses(logits.detach().float(), goal, following[part], answers, backward)
            total += losses.sum(dtype=total.dtype)
            if own is None or slope is None:
                continue
            found = torch.autograd.grad(logits, [x, *learning], slope.to(logits.dtype), allow_unused=True)
            own[part] = found[0]
            for number, gradient in enumerate(found[1:]):
                before = gradients[number]
                if before is None:
                    gradients[number] = gradient
                elif gradient is not None:
                    before += gradient
        if backward and not len(h):
            gradients = _no_gradients(decoder, h, learning)
        ctx.gradients = (own, *gradients)
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        own, *gradients = (None if one is None else one.mul_(upstream) for one in ctx.gradients)
        ctx.gradients = ()
        return own, None, None, None, None, None, *gradients


def _no_gradients(decoder: Decoder, h: Tensor, learning: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Zeros for what the head reads: FSDP sums over processes what has a gradient, so one that counts no position needs
    as many as the others.
    """
    with torch.enable_grad():
        x = h.new_zeros(1, h.shape[1]).requires_grad_()
        logits = head(decoder, x)
    found = torch.autograd.grad(logits, [x, *learning], torch.zeros_like(logits), allow_unused=True)
    return [None if one is None else torch.zeros_like(one) for one in found[1:]]


def _losses(
    logits: Tensor, goal: Goal, following: Tensor, answers: Targets | Tensor | None, backward: bool
) -> tuple[Tensor, Tensor | None]:
    """(positions,) losses and, for `backward`, their gradients by the logits, both in float32."""
    losses, slope = torch.zeros_like(logits[:, 0]), None
    if answers is not None and goal.kl > 0:
        losses, slope = kl(logits, goal.temperature, answers, backward)
        losses = losses * goal.kl
        slope = None if slope is None else slope.mul_(goal.kl)
    if answers is None or goal.kl < 1:
        share = 1 - goal.kl
        losses = losses + share * nn.functional.cross_entropy(logits, following.long(), reduction="none")
        if backward:
            own = logits.softmax(1)
            own[torch.arange(len(own), device=own.device), following.long()] -= 1
            slope = own.mul_(share) if slope is None else slope.add_(own, alpha=share)
    return losses, slope
