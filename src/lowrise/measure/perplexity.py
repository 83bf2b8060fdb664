"""Perplexity exactly as DESIGN.md defines it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.exact import exact_sum
from lowrise.measure.rows import rows_at_once
from lowrise.model.decoder import Decoder
from lowrise.observe.passes import logits_of_batches
from lowrise.progress import Reporter

_POSITIONS = 256  # whose losses are taken at once


@torch.no_grad()
def perplexity(decoder: Decoder, windows: Windows, progress: Reporter) -> dict[str, Any]:
    """exp of the mean next-token cross-entropy (natural log) over all tokens of each window that have one before them.

    What the tokenizer put in front of the text, BOS, is context and not predicted. Sums are in float64.
    """
    total = 0.0
    rows = rows_at_once(decoder, windows.length)
    with progress.bar("perplexity", len(windows)) as bar:
        for ids, logits in logits_of_batches(decoder, windows.batches(rows * windows.length)):
            total += _cross_entropy_sum(logits[:, windows.skipped :], ids[:, windows.skipped :])
            bar.advance(ids.numel(), steps=len(ids))
    loss = total / windows.targets
    return {
        "value": math.exp(loss) if loss < 700 else math.inf,
        "loss": loss,
        "tokens": windows.tokens,
        "windows": len(windows),
        "length": windows.length,
        "bos": windows.prefix > 0,
    }


def _cross_entropy_sum(logits: Tensor, ids: Tensor) -> float:
    """Summed over all positions that have a next token; logits (batch, tokens, vocabulary), ids (batch, tokens)."""
    losses = [exact_sum(_losses(row[:-1], targets[1:])) for row, targets in zip(logits, ids, strict=True)]
    return float(torch.stack(losses).sum())


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(positions,); a few positions at a time, for what a loss makes of logits is as large as they are."""
    loss = torch.nn.functional.cross_entropy
    parts = zip(logits.split(_POSITIONS), targets.split(_POSITIONS), strict=True)
    return torch.cat([loss(some.float(), following, reduction="none") for some, following in parts])
