"""KL(dense ‖ student) at some positions and its gradient, of whole distributions or of what is stored of them.

A dense model in memory is asked for whole distributions, chunk by chunk. What is stored are the 64 likeliest tokens and
the sum of the rest (METHODS 7, offline teacher). With p the dense model's and q the student's softmax at temperature T,
over the vocabulary or over these 65 buckets:

    kl = T² Σ_i p_i (log p_i - log q_i)

Its gradient by logit j is T·(q_j - p_j). Of buckets that holds for the 64 tokens; for any other it is
T·q_j·(1 - p_rest / q_rest): q is moved within the rest as a whole, never among its tokens. So buckets teach nothing of
unlikely tokens, a tenth to a fifth of all on texts that are hard to foretell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowrise.heal.head import head
from lowrise.model.decoder import Decoder

LIKELIEST = 64
_LEAST = -1e4  # logarithm of a probability that is none: within float16, and its exponential is 0
_TINY = 1e-38


class Targets(NamedTuple):
    """What is stored of the dense model's answers at positions: ids (positions, k) of the likeliest tokens, their
    log-probabilities, and rest (positions,), the logarithm of the sum of all other probabilities. Floats are natural
    logarithms, float32.
    """

    ids: Tensor
    log_p: Tensor
    rest: Tensor

    def at(self, part: slice, device: torch.device) -> Targets:
        return Targets(*(value[part].to(device) for value in self))


@dataclass(frozen=True)
class DenseStates:
    """The dense model in memory. h: (positions, hidden), what enters its final norm. autocast: as of `Resident`."""

    decoder: Decoder
    h: Tensor
    autocast: Callable[[], AbstractContextManager[Any]]

    def at(self, part: slice, device: torch.device) -> Tensor:
        """Its logits (positions, vocabulary), float32."""
        with torch.no_grad(), self.autocast():
            return head(self.decoder, self.h[part].to(self.decoder.dtype)).float().to(device)


Answers = Targets | DenseStates
"""What a student learns from, at the positions that count, in order."""


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


def kl(logits: Tensor, temperature: float, answers: Targets | Tensor, backward: bool) -> tuple[Tensor, Tensor | None]:
    """logits: (positions, vocabulary), float32, which may be overwritten. answers: what is stored, or the dense model's
    logits. (positions,) divergences and, for `backward`, their gradients by the logits.
    """
    z = logits if temperature == 1 else logits / temperature
    if isinstance(answers, Tensor):
        losses, slope = _of_whole(z, answers if temperature == 1 else answers / temperature, backward)
    else:
        losses, slope = _of_buckets(z, answers, backward)
    return losses * temperature**2, slope if slope is None or temperature == 1 else slope.mul_(temperature)


def _of_whole(z: Tensor, dense: Tensor, backward: bool) -> tuple[Tensor, Tensor | None]:
    """Heads may be of other widths: rows that fill a matrix up belong to no token."""
    width = min(z.shape[1], dense.shape[1])
    log_p = dense[:, :width].log_softmax(1).clamp_min_(_LEAST)
    log_q = z.log_softmax(1).clamp_min_(_LEAST)
    p = log_p.exp()
    losses = log_p.sub_(log_q[:, :width]).mul_(p).sum(1)
    if not backward:
        return losses, None
    slope = log_q.exp_()
    slope[:, :width] -= p
    return losses, slope


def _of_buckets(z: Tensor, targets: Targets, backward: bool) -> tuple[Tensor, Tensor | None]:
    ids = targets.ids.long()
    # buckets that were rounded on their way over the disk sum to 1 again
    log_p = torch.cat([targets.log_p.float(), targets.rest.float().unsqueeze(1)], dim=1).log_softmax(1)
    p = log_p.exp()
    found = _buckets(z, ids)
    log_q = torch.cat([found.log_q, found.log_rest.unsqueeze(1)], dim=1)
    losses = (p * (log_p - log_q)).sum(1)
    if not backward:
        return losses, None
    slope = found.rest.mul_(1 / found.total - p[:, -1:] / found.rest_total.clamp_min(_TINY))
    return losses, slope.scatter_(1, ids, found.log_q.exp() - p[:, :-1])
