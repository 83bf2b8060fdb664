"""Observing against a bare forward pass (time) and against storing all hidden states (memory, values).

    python benchmarks/observe.py [--model M] [--text FILE] [--samples 50] [--length 512]

Each way runs over the same windows; time is taken batch by batch in alternation, memory in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from common import demo_text, open_demo, parser, peak_memory, table
from torch import Tensor

from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.model.source import OpenModel
from lowrise.observe.stream import observe
from lowrise.progress import Reporter


def bare(opened: OpenModel, windows: Windows) -> None:
    for ids in windows.batches(opened.decoder.batch_tokens):
        opened.model.base_model(input_ids=ids, use_cache=False)


def naive(opened: OpenModel, windows: Windows, n: int) -> Tensor:
    """Hooks keep every state of every window; then a plain cosine."""
    layers = opened.decoder.layers
    kept: list[list[Tensor]] = [[] for _ in range(len(layers) + 1)]
    hooks = [
        layer.register_forward_pre_hook(lambda _m, args, i=i: kept[i].append(args[0])) for i, layer in enumerate(layers)
    ]
    hooks.append(layers[-1].register_forward_hook(lambda _m, _a, out: kept[-1].append(out)))
    bare(opened, windows)
    for hook in hooks:
        hook.remove()
    states = [torch.cat(batches) for batches in kept]
    return torch.stack(
        [
            torch.nn.functional.cosine_similarity(states[start], states[start + n], dim=-1).double().mean()
            for start in range(len(states) - n)
        ]
    )


def ours(opened: OpenModel, windows: Windows) -> Any:
    return observe(opened.decoder, windows, Reporter(quiet=True)).similarity


def ways(opened: OpenModel, n: int) -> dict[str, Any]:
    return {
        "bare forward": lambda windows: bare(opened, windows),
        "observe": lambda windows: ours(opened, windows),
        "store all states": lambda windows: naive(opened, windows, n),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=50)
    arguments.add_argument("--length", type=int, default=512)
    arguments.add_argument("--span", type=int, default=8)
    arguments.add_argument("--memory-of", help="internal: print one way's peak memory and stop")
    given = arguments.parse_args()
    opened = open_demo(given.model)
    stream = tokenise(opened.tokenizer, demo_text(given.text), "text")
    windows = Windows(sample(pack([stream], given.length), given.samples, 0), "text", 0)
    runs = ways(opened, given.span)
    torch.set_grad_enabled(False)
    if given.memory_of:
        with peak_memory() as peak:
            runs[given.memory_of](windows)
        print(json.dumps(peak.above))
        return
    batches = [Windows(ids, "text", 0) for ids in windows.batches(opened.decoder.batch_tokens)]
    timed = {name: run for name, run in runs.items() if name != "store all states"}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in timed.values():
        run(batches[0])
    for batch in batches:
        for name, run in timed.items():
            began = time.perf_counter()
            run(batch)
            seconds[name].append(time.perf_counter() - began)
    memory = {
        name: int(subprocess.check_output([sys.executable, *sys.argv, "--memory-of", name]).splitlines()[-1])
        for name in runs
    }
    gap = (ours(opened, windows).cosine(given.span) - naive(opened, windows, given.span)).abs().max()
    rows = []
    for name in runs:
        ratio = "-"
        if name in timed:
            pairs = zip(seconds[name], seconds["bare forward"], strict=True)
            ratio = f"{statistics.median(mine / base for mine, base in pairs):.3f}"
        rows.append(
            [name, ratio, f"{memory[name] / 2**20:,.0f} MiB", f"{memory['store all states'] / memory[name]:.1f}"]
        )
    print(f"{len(windows)} windows of {windows.length} tokens, spans of {given.span}; largest cosine gap {gap:.1e}")
    print(table(["way", "time / bare forward (median)", "peak above the model", "times less memory"], rows))


if __name__ == "__main__":
    main()
