"""The layers before the last one go, whatever the model: no token is looked at.

https://arxiv.org/abs/2411.15558, which then fine-tunes the head and the last three layers; here they are only dropped.
"""

from __future__ import annotations

from lowrise.select.choice import Choice, breaks, not_allowed
from lowrise.select.selection import Selection


def choose(selection: Selection) -> Choice:
    choice = choose_tail(selection.layers, selection.count)
    if breaks(selection.cuts, choice.spans):
        fitting = [
            n for n in range(1, selection.layers) if not breaks(selection.cuts, choose_tail(selection.layers, n).spans)
        ]
        near = sorted(fitting, key=lambda n: abs(n - selection.count))[:2]
        remedy = f"take {' or '.join(map(str, sorted(near)))} from the tail" if near else "choose another preset"
        raise not_allowed("--remove", selection.cuts, choice.spans, remedy)
    return choice


def choose_tail(layers: int, k: int) -> Choice:
    """[L-1-k, L-1) of L `layers`; the last one stays."""
    return Choice([(layers - 1 - k, layers - 1)], {"criterion": "tail"})
