"""How alike two models' outputs are on the same sentences (LaCo, arXiv 2402.11187, Algorithm 1: Avg_Cos_Sim)."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.exact import exact


def flattened_cosine(ours: Tensor, reference: Tensor, mask: Tensor) -> float:
    """One cosine a sentence over all its tokens' features at once, averaged over sentences; in float64.

    States (sentences, tokens, hidden); mask (sentences, tokens), true where a token counts. A token of large norm
    weighs more, as in the published notebooks.
    """
    ours, reference = exact(ours), exact(reference)
    counts = mask.unsqueeze(-1).to(ours.device)
    ours, reference = (torch.where(counts, h, 0.0).flatten(1) for h in (ours, reference))
    return float(torch.cosine_similarity(ours, reference, dim=1, eps=1e-12).mean())


def per_token_cosine(ours: Tensor, reference: Tensor, mask: Tensor) -> float:
    """One cosine a token, averaged over the sentence's tokens, then over sentences; in float64. Shapes as above."""
    ours, reference = (exact(h.flatten(2)) for h in (ours, reference))
    cosine = torch.cosine_similarity(ours, reference, dim=-1, eps=1e-12)
    mask = mask.to(cosine.device)
    return float((torch.where(mask, cosine, 0.0).sum(1) / mask.sum(1)).mean())
