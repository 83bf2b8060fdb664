"""The greedy search against recomputing every trial: same decisions, time as ratios from one run.

    python benchmarks/greedy.py [--model M] [--text FILE] [--samples 2] [--length 512] [--remove 3]

The naive version does what SLEB's published code does: for every trial it takes the layer out of the stack and runs
the model in full, from the embeddings to all logits. Both take the same windows in the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import demo_text, open_demo, parser, table

from lowrise.calibration import Windows
from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import pack, sample
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.select.greedy import choose_greedily


@torch.no_grad()
def naive(decoder: Decoder, windows: Windows, removed: list[int]) -> dict[int, float]:
    """Mean loss without each further layer, `removed` ones gone already; families with `model.layers` only."""
    positions = len(windows) * (windows.length - 1)
    model = decoder.model
    stack, losses = model.model.layers, {}
    for layer in range(len(stack)):
        if layer in removed:
            continue
        total = 0.0
        with without(model, [*removed, layer]):
            for ids in windows.batches(decoder.batch_tokens):
                logits = model(input_ids=ids, use_cache=False).logits
                shifted = logits[:, :-1].contiguous().view(-1, logits.shape[-1])
                total += float(torch.nn.functional.cross_entropy(shifted, ids[:, 1:].flatten(), reduction="sum"))
        losses[layer] = total / positions
    return losses


@contextmanager
def without(model: Any, layers: list[int]) -> Iterator[None]:
    stack, count = model.model.layers, model.config.num_hidden_layers
    model.model.layers = torch.nn.ModuleList(one for index, one in enumerate(stack) if index not in layers)
    model.config.num_hidden_layers = len(model.model.layers)
    try:
        yield
    finally:
        model.model.layers, model.config.num_hidden_layers = stack, count


def naive_search(decoder: Decoder, windows: Windows, k: int) -> list[dict[int, float]]:
    """Losses by layer of every round."""
    rounds: list[dict[int, float]] = []
    for _ in range(k):
        rounds.append(naive(decoder, windows, [min(losses, key=losses.__getitem__) for losses in rounds]))
    return rounds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=2)
    options.add_argument("--length", type=int, default=512)
    options.add_argument("--remove", type=int, default=3)
    asked = options.parse_args()
    opened = open_demo(asked.model)
    stream = tokenise(opened.tokenizer, demo_text(asked.text), "text")
    windows = Windows(sample(pack([stream], asked.length), asked.samples, seed=0), "text", 0)
    with torch.no_grad():
        opened.model(input_ids=windows.ids[:1], use_cache=False)
    spent = {}
    began, cpu = time.perf_counter(), time.process_time()
    scores = choose_greedily(opened.decoder, windows, asked.remove, Reporter(quiet=True)).scores
    spent["ours"] = time.perf_counter() - began, time.process_time() - cpu
    began, cpu = time.perf_counter(), time.process_time()
    slow = naive_search(opened.decoder, windows, asked.remove)
    spent["naive"] = time.perf_counter() - began, time.process_time() - cpu
    same = scores["layers"] == [min(losses, key=losses.__getitem__) for losses in slow]
    apart = max(
        abs(theirs[layer] - mine["losses"][layer])
        for mine, theirs in zip(scores["rounds"], slow, strict=True)
        for layer in theirs
    )
    print(f"{windows.tokens} tokens, removed {scores['layers']}, {sum(map(len, slow))} trials; ", end="")
    print(f"decisions {'equal' if same else 'DIFFER'}, losses to {apart:.1e}")
    rows = [[way, *(f"{seconds:.1f}" for seconds in spent[way])] for way in ("naive", "ours")]
    ratios = [f"{slow / ours:.2f}" for slow, ours in zip(spent["naive"], spent["ours"], strict=True)]
    print(table(["", "seconds", "processor seconds"], [*rows, ["naive / ours", *ratios]]))


if __name__ == "__main__":
    main()
