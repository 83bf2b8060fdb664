"""How much faster a model should be for the layers that it lost, if it did nothing but what is counted here.

Prefill is bound by arithmetic: a matrix of n entries costs 2n operations a token, and thousands of tokens share one
reading of it. With c operations in one layer (its matrices, and its attention over the prompt: 4 · heads · head size a
pair of tokens, the masked half too) and o outside the layers (the head, at the one position that it reads), a dense
model of L layers over one of K gives

    ideal = (L·c + o) / (K·c + o).

Decoding is bound by reading: a step uses each weight for one multiplication a row, far fewer than any machine could do
in the time that the weight takes to arrive (0.5 operations a byte in float32 for one row, 4 for eight; machines
offer 10 to 100 and more). A step reads all matrices once (o: the head's) and every row's keys and values, so with the
bytes w of a layer's matrices, k of its keys and values over the context, and b rows

    ideal = (L·(w + b·k) + o) / (K·(w + b·k) + o).

Nothing is assumed of the family: operations are those that torch counts in a real pass (`FlopCounterMode`, Linear,
Conv1D, experts and attention alike), and keys and values are the family's own cache. In a mixture of experts w is what
one token reads.

Norms, activations, rotations, the copying of the cache, the embedding lookup and the program around them are not
counted. What of this lies outside the layers keeps a measured ratio below the ideal; what lies in the layers goes with
them and may lift it above, at most to L / K, where all time is spent in layers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lowrise.measure.generation import greedy
from lowrise.model.cache import cache_bytes, layer_caches
from lowrise.model.decoder import Decoder


def prefill_cost(decoder: Decoder, tokens: int) -> int:
    """Operations of matrix products (a multiplication and an addition are two) while one row of `tokens` is read."""
    return sum(_operations(decoder, tokens).values())


def decode_cost(decoder: Decoder, batch: int, prompt: int, steps: int) -> float:
    """Bytes that `steps` steps of `batch` rows read, after a prompt of `prompt` tokens: matrices, keys and values."""
    products = sum(count for name, count in _operations(decoder, 1).items() if name != "bmm")  # bmm: attention
    matrices = products / 2 * decoder.dtype.itemsize  # two operations an entry
    caches = layer_caches(decoder)
    return steps * matrices + batch * sum(cache_bytes(caches, prompt + step) for step in range(steps))


@torch.no_grad()
def _operations(decoder: Decoder, tokens: int) -> dict[str, int]:
    """By kind of product. The plain form of attention, since the counter does not know every fused kernel."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=decoder.device)
    experts = {torch.ops.aten._grouped_mm: _grouped} if hasattr(torch.ops.aten, "_grouped_mm") else {}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=experts) as counter:
        next(greedy(decoder, ids))
    return {str(product).partition(".")[2]: count for product, count in counter.get_flop_counts()["Global"].items()}


def _grouped(rows: tuple[int, ...], matrices: tuple[int, ...], *_args: Any, **_kwargs: Any) -> int:
    """rows (tokens, in), each times one of matrices (experts, in, out)."""
    return 2 * prod(rows) * matrices[-1]
