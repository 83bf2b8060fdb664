"""ShortGPT's criterion: the layers that change the residual stream least, wherever they stand.

https://arxiv.org/abs/2403.03853: BI_l = 1 - E cos(h[l], h[l+1]).
"""

from __future__ import annotations

from lowrise.errors import RecipeError
from lowrise.observe.stream import Observation
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, lowest_allowed, spans_of
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    return choose_by_influence(selection.observation, selection.count, selection.recipe.avoid_massive, selection.cuts)


def choose_by_influence(
    observation: Observation, k: int, avoid_massive: bool, cuts: AllowedCuts | None = None
) -> Choice:
    """The k layers of the lowest block influence, as published.

    avoid_massive: among the layers that do not write massive activations. cuts: of the cuts that are allowed the one of
    the least total. Raises RecipeError where fewer are left.
    """
    influence = (1 - observation.similarity.cosine(1)).tolist()
    writers = observation.massive.writers()
    may_go = [layer for layer in range(len(influence)) if not avoid_massive or layer not in writers]
    if k > len(may_go):
        raise RecipeError(
            "--avoid-massive",
            f"{k} layers that write no massive activations",
            f"{len(may_go)} beside the writers {writers}",
            "remove fewer layers, or leave --avoid-massive out",
        )
    layers, cost = lowest_allowed(influence, k, may_go, cuts or AllowedCuts(len(influence)), "total block influence")
    scores = {
        "criterion": "block-influence",
        "layers": layers,
        "influence": influence,
        "massive_activations": observation.massive.data(),
    }
    return Choice(spans_of(layers), scores, cost=cost)
