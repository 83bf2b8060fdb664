"""The layers before the last one go, whatever the model: no token is looked at.

https://arxiv.org/abs/2411.15558, which then fine-tunes the head and the last three layers; here they are only dropped.
"""

from __future__ import annotations

from lowrise.select.choice import Choice
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    return choose_tail(selection.layers, selection.count)


def choose_tail(layers: int, k: int) -> Choice:
    """[L-1-k, L-1) of L `layers`; the last one stays."""
    return Choice([(layers - 1 - k, layers - 1)], {"criterion": "tail"})
