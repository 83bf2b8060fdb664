"""How far a student's next-token distributions are from the dense model's, from a few numbers a position.

The loss on a few thousand tokens hangs on which tokens they happen to be; the divergence asks at every position about
the whole distribution, so that differences between students show at a fraction of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.exact import exact_sum
from lowrise.model.decoder import Decoder
from lowrise.observe.loss import logits_by_piece

LIKELY = 64  # tokens of a position that are told apart; all others count as one


@dataclass(frozen=True)
class Likely:
    """The dense model's likeliest next tokens, and their log probabilities: (batch, tokens - 1, LIKELY) both."""

    tokens: Tensor
    log_p: Tensor


@torch.no_grad()
def likely(decoder: Decoder, h: Tensor, ids: Tensor) -> tuple[Likely, float]:
    """The dense model's, and its summed next-token loss (natural log); h, ids as in `observe/loss.py`."""
    tokens, log_p, loss = [], [], 0.0
    ids = ids.to(decoder.device)
    for piece, logits in logits_by_piece(decoder, h, ids):
        total = logits.logsumexp(-1, keepdim=True)
        loss += _loss(logits, total, ids[:, piece.start + 1 : piece.stop + 1])
        top = logits.topk(min(LIKELY, logits.shape[-1]))
        tokens.append(top.indices)
        log_p.append(top.values - total)
    return Likely(torch.cat(tokens, 1), torch.cat(log_p, 1)), loss


@torch.no_grad()
def loss_and_divergence(decoder: Decoder, h: Tensor, ids: Tensor, dense: Likely) -> tuple[float, float]:
    """A student's summed next-token loss, and its summed KL(dense ‖ student) where all unlikely tokens are one.

    Both natural log. The second is, but for rounding, at most the divergence over the whole vocabulary.
    """
    loss, divergence = 0.0, 0.0
    ids = ids.to(decoder.device)
    for piece, logits in logits_by_piece(decoder, h, ids):
        total = logits.logsumexp(-1, keepdim=True)
        loss += _loss(logits, total, ids[:, piece.start + 1 : piece.stop + 1])
        log_p = dense.log_p[:, piece]
        log_q = logits.gather(-1, dense.tokens[:, piece]) - total
        told_apart = (log_p.exp() * (log_p - log_q)).sum(-1)
        rest, other_rest = (_rest(log) for log in (log_p, log_q))
        divergence += float(exact_sum(told_apart + rest * (rest.log() - other_rest.log())))
    return loss, divergence


def _loss(logits: Tensor, total: Tensor, targets: Tensor) -> float:
    """Summed cross-entropy of (batch, positions, vocabulary) logits whose logsumexp is known already."""
    return float(exact_sum(total - logits.gather(-1, targets.unsqueeze(-1))))


def _rest(log_p: Tensor) -> Tensor:
    """(..., LIKELY) → (...): the probability of all other tokens, kept off 0, where rounding would leave it."""
    return (1 - log_p.exp().sum(-1)).clamp_min(1e-6)
