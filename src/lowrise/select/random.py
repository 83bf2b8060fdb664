"""The control: layers drawn at random, none more likely than another. What a criterion does not beat it does not know.

A baseline of https://arxiv.org/abs/2411.15558, for one.
"""

from __future__ import annotations

import torch

from lowrise.select.choice import Choice, breaks, not_allowed, spans_of
from lowrise.select.selection import Selection

_SEEDS = 1000  # that are tried for one to be named


def choose(selection: Selection) -> Choice:
    """Raises RecipeError where what is drawn is not allowed: the next one that is would not be drawn at random."""
    seed = selection.recipe.seed
    choice = choose_at_random(selection.layers, selection.count, seed)
    if breaks(selection.cuts, choice.spans):
        others = (choose_at_random(selection.layers, selection.count, seed + more) for more in range(1, _SEEDS))
        near = next((one.scores["seed"] for one in others if not breaks(selection.cuts, one.spans)), None)
        remedy = "choose another preset" if near is None else f"--seed {near} draws layers that can go"
        raise not_allowed(f"--seed {seed}", selection.cuts, choice.spans, remedy)
    return choice


def choose_at_random(layers: int, k: int, seed: int) -> Choice:
    """k of the `layers`, without repetition; the same for the same seed."""
    drawn = torch.randperm(layers, generator=torch.Generator().manual_seed(seed))[:k].tolist()
    return Choice(spans_of(drawn), {"criterion": "random", "seed": seed, "layers": drawn})
