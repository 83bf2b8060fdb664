"""ShortGPT's criterion: the layers that change the residual stream least, wherever they stand.

https://arxiv.org/abs/2403.03853: BI_l = 1 - E cos(h[l], h[l+1]).
"""

from __future__ import annotations

from lowrise.errors import RecipeError
from lowrise.observe.stream import Observation
from lowrise.select.choice import Choice, lowest, spans_of
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    return choose_by_influence(selection.observation, selection.count, selection.recipe.avoid_massive)


def choose_by_influence(observation: Observation, k: int, avoid_massive: bool) -> Choice:
    """The k layers of the lowest block influence, as published.

    avoid_massive: among the layers that do not write massive activations. Raises RecipeError where fewer are left.
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
    layers = lowest(influence, k, may_go)
    scores = {
        "criterion": "block-influence",
        "layers": layers,
        "influence": influence,
        "massive_activations": observation.massive.data(),
    }
    return Choice(spans_of(layers), scores)
