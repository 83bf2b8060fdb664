"""Where the time of a token goes: in the layers, and beside them."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Any

import torch

from lowrise.measure.generation import greedy
from lowrise.measure.speed import now, prompts, shape_of
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

_ROUNDS = 5  # that count; one more goes before them, to warm up


@torch.no_grad()
def decode_times(decoder: Decoder, progress: Reporter) -> tuple[float, float]:
    """Seconds that one more token of one row takes in a layer, the mean of all, and outside of them.

    Measured while the model writes as `speed` lets it write, medians over rounds. The model is left as it was.
    """
    prompt, new = shape_of([decoder])
    ids = prompts([decoder], prompt)[:1].to(decoder.device)
    inside, whole = [], []
    with ExitStack() as stack, progress.bar("timing", 1 + _ROUNDS) as bar:
        timer = _LayerTimer(decoder)
        for layer in decoder.layers:
            stack.callback(layer.register_forward_pre_hook(timer.enter).remove)
            stack.callback(layer.register_forward_hook(timer.leave).remove)
        for turn in range(1 + _ROUNDS):
            tokens = greedy(decoder, ids)
            next(tokens)
            timer.seconds, began = 0.0, now(decoder)
            for _ in range(new):
                next(tokens)
            if turn:
                whole.append((now(decoder) - began) / new)
                inside.append(timer.seconds / new)
            bar.advance(prompt + new, "one row")
    in_layers = median(inside)
    return in_layers / len(decoder), max(0.0, median(whole) - in_layers)


class _LayerTimer:
    """Sums the seconds between a layer's call and its return."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._began, self.seconds = decoder, 0.0, 0.0

    def enter(self, _module: Any, _inputs: Any) -> None:
        self._began = now(self._decoder)

    def leave(self, _module: Any, _inputs: Any, _output: Any) -> None:
        self.seconds += now(self._decoder) - self._began
