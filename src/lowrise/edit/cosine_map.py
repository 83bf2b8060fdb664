"""ReplaceMe's other objective: the map that brings directions, not states, together. Found by Adam, folded as well.

https://arxiv.org/abs/2505.02819, equation 6: min over T of E [1 - cos(M·T + Y, H)].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fold import fold_gaps
from lowrise.edit.gram import Solution
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.write import Write
from lowrise.edit.writing import runs
from lowrise.exact import exact, exact_sum

# The published settings but for the tokens of a step.
EPOCHS = 10
STEP_TOKENS = 1024
LEARNING_RATE = 1e-4

Tokens = tuple[Tensor, Tensor, Tensor]


def repair(task: RepairTask) -> Repaired:
    """As fold, with the map for directions."""
    return fold_gaps(task, _turned, _turned_together)


def _turned(layerwise: LayerwisePass, write: Write) -> Solution:
    own, of_held = write.own, [held for _, held, _, _ in runs(layerwise)]

    def tokens(held: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number, of_this in enumerate(of_held):
            if of_this == held:
                parts = (layerwise.get(what, number).float().flatten(0, -2) for what in ("inputs", "out", "dense"))
                inputs, out, target = parts
                yield inputs @ own, out, target

    found, before, after = cosine_map(lambda: tokens(held=False), lambda: tokens(held=True), own.shape[1])
    return Solution(exact(own @ found - own), None, before, after)


def _turned_together(layerwise: LayerwisePass) -> Solution:
    def tokens(held: bool) -> Iterator[Tokens]:
        for number in layerwise.numbers(held=held):
            made, out, target = (
                layerwise.get(what, number).float().flatten(0, -2) for what in ("made", "out", "dense")
            )
            yield made, out, target

    d = layerwise.decoder.hidden_size
    found, before, after = cosine_map(lambda: tokens(held=False), lambda: tokens(held=True), d)
    return Solution(exact(found - torch.eye(d, device=found.device)), None, before, after)


def cosine_map(batches: Callable[[], Iterator[Tokens]], held_out: Callable[[], Iterator[Tokens]], d: int) -> tuple[
    Tensor, float, float
]:  # fmt: skip
    """(T (d, d), 1 - cos on held-out tokens with T = 1, the same with T). T starts at the identity.

    Batches are (M, out, H), each (tokens, d) in float32: the MLP's output, what leaves the layer (M and the rest), and
    the state to meet. They are asked for once an epoch, in the same order.
    """
    device = next(held_out())[0].device
    before = _distance(held_out(), torch.eye(d, device=device))
    change = torch.zeros(d, d, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for batch in batches():
                for m, out, target in zip(*(part.split(STEP_TOKENS) for part in batch), strict=True):
                    optimiser.zero_grad()
                    loss = 1 - torch.cosine_similarity(out + m @ change, target, dim=-1).mean()
                    loss.backward()
                    optimiser.step()
    found = torch.eye(d, device=device) + change.detach()
    return found, before, _distance(held_out(), found)


def _distance(batches: Iterator[Tokens], t: Tensor) -> float:
    total, tokens = 0.0, 0
    for m, out, target in batches:
        distance = 1 - torch.cosine_similarity(out - m + m @ t, target, dim=-1)
        total += float(exact_sum(distance))
        tokens += len(m)
    return total / max(1, tokens)
