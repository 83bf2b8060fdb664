"""SLEB's criterion: one layer after the other, always the one whose removal raises the loss least.

https://arxiv.org/abs/2402.09025
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.model.decoder import Decoder
from lowrise.observe.loss import next_token_loss
from lowrise.observe.stream import BATCH_TOKENS
from lowrise.progress import Reporter
from lowrise.select.choice import Choice, lowest, spans_of


def choose_greedily(decoder: Decoder, windows: Windows, k: int, report: Reporter) -> Choice:
    """k layers, each chosen on the model that the ones before left. Changes nothing.

    Losses are means over all positions, natural log. A trial without layer l begins at the stored input of l, so layers
    below are not run again: about half the layers and the head a trial, (L - r) trials in round r. That is the price
    of k times L/2 passes over the tokens, hence few windows (the preset's own number is 4): all trials see the same
    tokens, so their differences are sharper than each loss is. Memory: the layer inputs of one batch.
    """
    layers = list(range(len(decoder)))
    rounds: list[dict[str, Any]] = []
    batches = list(windows.batches(BATCH_TOKENS))
    trials = len(batches) * sum(len(layers) - done for done in range(k))
    positions = len(windows) * (windows.length - 1)
    dense = 0.0
    with report.bar("searching", trials) as bar:
        while len(rounds) < k:
            losses = dict.fromkeys(layers, 0.0)
            for ids in batches:
                for layer, loss in _trials(decoder, ids, layers, with_all=not rounds):
                    if layer is None:
                        dense += loss / positions
                    else:
                        losses[layer] += loss / positions
                        bar.advance(ids.numel(), _note(rounds))
            (gone,) = lowest(losses, 1, layers)
            layers.remove(gone)
            by_layer = [losses.get(layer) for layer in range(len(decoder))]  # null: gone before
            rounds.append({"removed": gone, "loss": losses[gone], "losses": by_layer})
    removed = [one["removed"] for one in rounds]
    scores = {
        "criterion": "greedy-perplexity",
        "layers": removed,
        "loss": {"dense": dense, "after": rounds[-1]["loss"]},
        "rounds": rounds,
    }
    return Choice(spans_of(removed), scores)


@torch.no_grad()
def _trials(decoder: Decoder, ids: Tensor, layers: list[int], with_all: bool) -> Iterator[tuple[int | None, float]]:
    """(l, summed loss of `layers` without l) of one batch for each of them; first (None, that of all) if asked for.

    Every layer is called as in the whole model, so one that is of another kind keeps its own mask and positions.
    """
    h, calls = decoder.enter(ids)
    inputs = []
    for layer in layers:
        inputs.append(h)
        if with_all or layer != layers[-1]:
            h = decoder.step(layer, h, calls)
    if with_all:
        yield None, next_token_loss(decoder, h, ids)
    for place, layer in enumerate(layers):
        h = inputs[place]
        for later in layers[place + 1 :]:
            h = decoder.step(later, h, calls)
        yield layer, next_token_loss(decoder, h, ids)


def _note(rounds: list[dict[str, Any]]) -> str:
    return f"loss {rounds[-1]['loss']:.3f} without {len(rounds)}" if rounds else ""
