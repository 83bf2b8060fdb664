"""Refit against the same regressions on stored activations: peak memory above the model, seconds, and the loss of both.

    python benchmarks/repair.py [--model M] [--text FILE] [--samples 32] [--length 512] [--start 12] [--stop 20]

Each way runs over the same windows in a process of its own. The bound that ours must keep: two sets of sums (AᵀA, AᵀE
of the fitted and of the held-out tokens), the factor that solves them, one layer's new matrices, and one batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import torch
from common import demo_text, open_demo, parser, peak_memory, table
from torch import Tensor

from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.edit.gram import RIDGES
from lowrise.edit.refit import weight_of
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import Matrix, attention_write, captured, mlp_write, reads
from lowrise.progress import Reporter


def ours(decoder: Decoder, windows: Windows, held_out: int, kept: list[int]) -> None:
    repair(Student(decoder, kept), windows, held_out, "refit", Reporter(quiet=True))


def naive(decoder: Decoder, windows: Windows, held_out: int, kept: list[int]) -> None:
    """A layer's inputs and errors of all tokens stored, and what the dense layers read and wrote."""
    cut = (len(windows) - held_out) * windows.length
    h, calls = decoder.enter(windows.ids)
    first = next(layer for layer in kept if layer + 1 not in kept)
    for layer in range(first):
        h = decoder.step(layer, h, calls)
    dense, wanted = h, {}
    for layer in range(first, len(decoder)):
        matrices = [group[0].module for group in reads(decoder, layer)]
        with captured(matrices[0]) as to_attention, captured(matrices[1]) as to_mlp:
            dense = decoder.step(layer, dense, calls)
        wanted[layer] = to_attention[0], to_mlp[0], dense

    def change(a: Tensor, e: Tensor, weight: Tensor | None) -> Tensor:
        root = 1.0 if weight is None else weight.flatten().double().sqrt().unsqueeze(1)
        a, e = a.flatten(0, 1).double() * root, e.flatten(0, 1).double() * root
        gram, cross = a[:cut].T @ a[:cut], a[:cut].T @ e[:cut]
        scale = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        tried = [torch.zeros_like(cross)] + [torch.linalg.solve(gram + one * scale, cross) for one in RIDGES]
        return min(tried, key=lambda x: float((a[cut:] @ x - e[cut:]).square().sum()))

    def put(layer: int, matrix: Matrix, change: Tensor) -> None:
        own = decoder.layers[layer].get_parameter(matrix.parameter)
        own.copy_(matrix.weight((matrix.matrix(own).double() + change).float()))

    for layer in kept[kept.index(first) :]:
        target = wanted[Student(decoder, kept).following(layer) - 1][2]
        for part, write in enumerate((attention_write(decoder, layer), mlp_write(decoder, layer))):
            group = reads(decoder, layer)[part]
            with captured(group[0].module) as seen:
                decoder.step(layer, h, calls)
            turn = change(seen[0], wanted[layer][part] - seen[0], None)
            for matrix in group:
                put(layer, matrix, turn @ matrix.matrix(decoder.layers[layer].get_parameter(matrix.parameter)).double())
            with captured(write.module) as seen:
                out = decoder.step(layer, h, calls)
            put(layer, write, change(seen[0], target - out, weight_of(target)))
        h = decoder.step(layer, h, calls)


def main() -> None:
    options = parser(__doc__ or "")
    for name, value in {"samples": 32, "length": 512, "start": 12, "stop": 20}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--child", choices=["ours", "naive"])
    asked = options.parse_args()
    if asked.child:
        print(json.dumps(child(asked)))
        return
    done: dict[str, dict[str, Any]] = {}
    for which in ("ours", "naive"):
        command = [sys.executable, *sys.argv, "--child", which]
        done[which] = json.loads(subprocess.check_output(command).splitlines()[-1])
    print(f"{asked.samples} windows of {asked.length}, [{asked.start}, {asked.stop}) gone")
    rows = [
        [name, f"{one['seconds']:.1f}", f"{one['peak'] / 2**20:,.0f} MiB", f"{one['loss']:.6f}"]
        for name, one in done.items()
    ]
    slow, fast = done["naive"], done["ours"]
    rows.append(["naive / ours", f"{slow['seconds'] / fast['seconds']:.2f}", f"{slow['peak'] / fast['peak']:.1f}", ""])
    print(table(["", "seconds", "peak above the loaded model", "loss on the held-out windows"], rows))
    print(f"two sets of sums and a factor: {fast['sums'] / 2**20:,.0f} MiB; one batch and one layer's matrices beside")


@torch.no_grad()
def child(asked: Any) -> dict[str, Any]:
    opened = open_demo(asked.model)
    stream = tokenise(opened.tokenizer, demo_text(asked.text), "text")
    windows = Windows(sample(pack([stream], asked.length), asked.samples, 0), "text", 0)
    opened.model(input_ids=windows.ids[:2], use_cache=False)
    held_out = max(1, asked.samples // 10)
    decoder = opened.decoder
    kept = [layer for layer in range(len(decoder)) if not asked.start <= layer < asked.stop]
    k, d = mlp_write(decoder, 0).matrix(mlp_write(decoder, 0).module.weight).shape
    with peak_memory() as peak:
        began = time.perf_counter()
        (ours if asked.child == "ours" else naive)(decoder, windows, held_out, kept)
        seconds = time.perf_counter() - began
    loss = Student(decoder, kept).loss(Windows(windows.ids[-held_out:], "held out", 0))
    return {"seconds": seconds, "peak": peak.above, "sums": 8 * (3 * k * k + 3 * k * d), "loss": loss}


if __name__ == "__main__":
    main()
