"""When a result counts as collapsed. One rule for the search, terminal, tables, page and card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Perplexity, compressed over dense, from which a result counts as collapsed. On short calibration sentences it is high
# to begin with: on the demo model ×2.2 there was ×4.6 on long text, ×4.2 was ×11.5.
COLLAPSED_RATIO = 3.0
SEARCHED = "the sentences of the search"
HELD_OUT = "calibration, held out"
LOSS_TOKENS = 8192  # held-out tokens that the loss before and after is measured on, at most


def is_collapse(ratio: float | None) -> bool:
    """Whether this perplexity ratio is one of a collapse; what is no number is, what was not measured is not."""
    return ratio is not None and (not math.isfinite(ratio) or ratio >= COLLAPSED_RATIO)


def worst_text(ratios: Mapping[str, float]) -> str:
    """The text that the model reads worst, by perplexity ratio; what is no number is worse than any."""
    return max(ratios, key=lambda name: math.inf if math.isnan(ratios[name]) else ratios[name])


def remedy(healed: bool) -> str:
    """What to do about a collapse. healed: whether the model was healed."""
    if healed:
        return "heal on more tokens of more texts, or begin with a cut of fewer layers"
    return "remove fewer layers, choose another preset, or heal it"


def own_text(scores: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """(name, what is noted of it) of the calibration's own text in a plan's scores, or None where nothing is.

    Merges that were repaired have both: the search saw them as they were before.
    """
    for key, name in (("held_out", HELD_OUT), ("loss", SEARCHED)):
        noted = scores.get(key)
        if isinstance(noted, dict) and isinstance(noted.get("perplexity_ratio"), int | float):
            return name, noted
    return None


def collapsed_on(ratios: Mapping[str, float], scores: Mapping[str, Any], *, healed: bool) -> tuple[str, float] | None:
    """(text, perplexity ratio) where a model that has collapsed is worst, or None for one that has not. Texts that it
    was measured on come first, for tables show them.

    ratios: by text, of everything it was measured on. scores: of its plan, which notes what the edits did to the
    sentences of a search of merges, or to held-out calibration tokens. healed: whether it was healed since, so that
    what a plan says of the cut is true no more.
    """
    noted = None if healed else own_text(scores)
    for known in (ratios, {} if noted is None else {noted[0]: float(noted[1]["perplexity_ratio"])}):
        lost = {name: ratio for name, ratio in known.items() if is_collapse(ratio)}
        if lost:
            return worst_text(lost), lost[worst_text(lost)]
    return None
