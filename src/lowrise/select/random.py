"""The control: layers drawn at random, none more likely than another. What a criterion does not beat it does not know.

A baseline of https://arxiv.org/abs/2411.15558, for one.
"""

from __future__ import annotations

import torch

from lowrise.select.choice import Choice, spans_of
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    return choose_at_random(selection.layers, selection.count, selection.recipe.seed)


def choose_at_random(layers: int, k: int, seed: int) -> Choice:
    """k of the `layers`, without repetition; the same for the same seed."""
    drawn = torch.randperm(layers, generator=torch.Generator().manual_seed(seed))[:k].tolist()
    return Choice(spans_of(drawn), {"criterion": "random", "seed": seed, "layers": drawn})
