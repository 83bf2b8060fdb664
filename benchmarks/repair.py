"""Closed-form repair against storing activations: peak memory above the model, seconds, and the matrix both find.

    python benchmarks/repair.py [--model M] [--text FILE] [--samples 32] [--length 512] [--start 12] [--stop 20]

Each way runs over the same windows in a process of its own. The bound that ours must keep: two Gram matrices (AᵀA and
AᵀE of the fitted and of the held-out tokens), the factor that solves them, and one batch.
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
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.writes import captured, mlp_write
from lowrise.progress import Reporter


def ours(decoder: Decoder, windows: Windows, held_out: int, start: int, stop: int) -> Tensor:
    kept = [layer for layer in range(len(decoder)) if not start <= layer < stop]
    student = Student(decoder, kept)
    repair(student, windows, held_out, "refit", Reporter(quiet=True))
    write = mlp_write(decoder, start - 1)
    return write.matrix(student.parameter(start - 1, write.parameter)).clone()


def naive(decoder: Decoder, windows: Windows, held_out: int, start: int, stop: int) -> Tensor:
    """All inputs and errors of all tokens stored, one solution a λ."""
    write = mlp_write(decoder, start - 1)
    inputs, errors = [], []
    for ids in windows.ids.split(2):
        with captured(write.module) as seen:
            states = dict(decoder.states(ids, stop))
        inputs.append(seen[-1].clone())
        errors.append(states[stop] - states[start])
    a, e = torch.cat(inputs).double(), torch.cat(errors).double()
    cut = len(windows) - held_out
    (fit, rest), (target, wanted) = ([part[:cut].flatten(0, 1), part[cut:].flatten(0, 1)] for part in (a, e))
    gram, cross = fit.T @ fit, fit.T @ target
    scale = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    tried = [torch.zeros_like(cross)] + [torch.linalg.solve(gram + one * scale, cross) for one in RIDGES]
    change = min(tried, key=lambda x: float((rest @ x - wanted).square().sum()))
    own = write.matrix(decoder.layers[start - 1].get_parameter(write.parameter).detach())
    return (own + change).float()


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
    first, second = (torch.tensor(done[which]["probe"]) for which in ("ours", "naive"))
    apart = float((first - second).norm() / second.norm())
    print(
        f"{asked.samples} windows of {asked.length}, [{asked.start}, {asked.stop}) gone; matrices apart by {apart:.1e}"
    )
    rows = [[name, f"{one['seconds']:.1f}", f"{one['peak'] / 2**20:,.0f} MiB"] for name, one in done.items()]
    slow, fast = done["naive"], done["ours"]
    rows.append(["naive / ours", f"{slow['seconds'] / fast['seconds']:.2f}", f"{slow['peak'] / fast['peak']:.1f}"])
    print(table(["", "seconds", "peak above the loaded model"], rows))
    print(f"two sets of Gram matrices: {fast['grams'] / 2**20:,.0f} MiB; one batch's states, inputs and logits beside")


@torch.no_grad()
def child(asked: Any) -> dict[str, Any]:
    opened = open_demo(asked.model)
    stream = tokenise(opened.tokenizer, demo_text(asked.text), "text")
    windows = Windows(sample(pack([stream], asked.length), asked.samples, 0), "text", 0)
    opened.model(input_ids=windows.ids[:2], use_cache=False)
    held_out = max(1, asked.samples // 10)
    way = ours if asked.child == "ours" else naive
    with peak_memory() as peak:
        began = time.perf_counter()
        matrix = way(opened.decoder, windows, held_out, asked.start, asked.stop)
        seconds = time.perf_counter() - began
    k, d = matrix.shape
    return {"seconds": seconds, "peak": peak.above, "grams": 2 * 8 * (k * k + k * d), "probe": matrix[::97].tolist()}


if __name__ == "__main__":
    main()
