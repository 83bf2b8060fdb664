"""What a student is trained for, without the matrix of (tokens × vocabulary) logits ever being whole in memory.

The dense model's distribution is known by its 64 likeliest tokens and the sum of the rest (METHODS 7, offline teacher).
Per position, with p the dense model's and q the student's softmax at temperature T, both over these 65 buckets:

    kl = T² Σ_i p_i (log p_i - log q_i)        ce = -log q(the token that follows), at temperature 1

As sums over buckets they are exact for vocabularies of up to 65 tokens; beyond, kl is at most that of the whole
distributions. Its gradient by logit j is T·(q_j - p_j) for one of the 64 tokens, and T·q_j·(1 - p_rest / q_rest) for
any other: q is moved within the rest as a whole, never among its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowrise.model.decoder import Decoder

LIKELIEST = 64
_LEAST = -1e4  # logarithm of a probability that is none: within float16, and its exponential is 0
_TINY = 1e-38


class Targets(NamedTuple):
    """What the dense model says of positions: ids (positions, k) of the likeliest tokens, their log-probabilities, and
    rest (positions,), the logarithm of the sum of all other probabilities. Floats are natural logarithms, float32.
    """

    ids: Tensor
    log_p: Tensor
    rest: Tensor


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

    def forward(self, ids: Tensor, counted: Tensor, targets: Targets | None = None) -> Tensor:
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
        targets: Targets | None,
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
            target = None if targets is None else Targets(*(value[part].to(h.device) for value in targets))
            losses, slope = _losses(logits.detach().float(), goal, following[part], target, backward)
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


def head(decoder: Decoder, h: Tensor) -> Tensor:
    """h[L] of some positions (positions, hidden) → their logits (positions, vocabulary), by the model's own code."""
    ids = torch.zeros(1, len(h), dtype=torch.long, device=h.device)
    return decoder.logits(h.unsqueeze(0), ids)[0]


def chunks(decoder: Decoder, positions: int) -> Iterator[slice]:
    """Positions whose logits are held at once."""
    rows = decoder.model.get_output_embeddings().weight.shape[0]
    size = max(1, min(decoder.batching.chunk_of_logits // rows, decoder.max_length))
    for first in range(0, positions, size):
        yield slice(first, min(first + size, positions))


def targets_of(logits: Tensor, temperature: float) -> Targets:
    """Of the dense model's logits (positions, vocabulary), at least two tokens."""
    z = logits.float()
    z = z if temperature == 1 else z / temperature
    ids = z.topk(min(LIKELIEST, z.shape[1] - 1), sorted=False).indices
    found = _buckets(z, ids)
    return Targets(ids.int(), found.log_q.clamp_min(_LEAST), found.log_rest.clamp_min(_LEAST))


class _Buckets(NamedTuple):
    """log_q (positions, k), log_rest (positions,). rest: exp of the logits, shifted, 0 at the k tokens (positions,
    vocabulary). total, rest_total: (positions, 1), sums of these exponentials over all tokens and over the rest.
    """

    log_q: Tensor
    log_rest: Tensor
    rest: Tensor
    total: Tensor
    rest_total: Tensor


def _buckets(z: Tensor, ids: Tensor) -> _Buckets:
    """The rest is summed as it is: 1 minus the others would leave nothing but rounding where they are nearly all."""
    highest = z.amax(1, keepdim=True)
    likeliest = z.gather(1, ids) - highest
    rest = (z - highest).exp_().scatter_(1, ids, 0.0)
    rest_total = rest.sum(1, keepdim=True)
    total = rest_total + likeliest.exp().sum(1, keepdim=True)
    log_rest = (rest_total.clamp_min(_TINY).log() - total.log()).squeeze(1)
    return _Buckets(likeliest - total.log(), log_rest, rest, total, rest_total)


def _losses(
    logits: Tensor, goal: Goal, following: Tensor, targets: Targets | None, backward: bool
) -> tuple[Tensor, Tensor | None]:
    """(positions,) losses and, for `backward`, their gradients by the logits, both in float32."""
    losses, slope = torch.zeros_like(logits[:, 0]), None
    if targets is not None and goal.kl > 0:
        losses, slope = _kl(logits, goal.temperature, targets, backward)
        losses = losses * goal.kl
        slope = None if slope is None else slope.mul_(goal.kl)
    if targets is None or goal.kl < 1:
        share = 1 - goal.kl
        losses = losses + share * nn.functional.cross_entropy(logits, following.long(), reduction="none")
        if backward:
            own = logits.softmax(1)
            own[torch.arange(len(own), device=own.device), following.long()] -= 1
            slope = own.mul_(share) if slope is None else slope.add_(own, alpha=share)
    return losses, slope


def _kl(logits: Tensor, temperature: float, targets: Targets, backward: bool) -> tuple[Tensor, Tensor | None]:
    ids = targets.ids.long()
    # buckets that were rounded on their way over the disk sum to 1 again
    log_p = torch.cat([targets.log_p.float(), targets.rest.float().unsqueeze(1)], dim=1).log_softmax(1)
    p = log_p.exp()
    found = _buckets(logits if temperature == 1 else logits / temperature, ids)
    log_q = torch.cat([found.log_q, found.log_rest.unsqueeze(1)], dim=1)
    losses = temperature**2 * (p * (log_p - log_q)).sum(1)
    if not backward:
        return losses, None
    slope = found.rest.mul_(1 / found.total - p[:, -1:] / found.rest_total.clamp_min(_TINY))
    slope.scatter_(1, ids, found.log_q.exp() - p[:, :-1])
    return losses, slope if temperature == 1 else slope.mul_(temperature)
