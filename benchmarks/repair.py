"""Refit against the same regressions on stored activations: peak memory above the model, seconds, and the loss of both.

    python benchmarks/repair.py [--model M] [--text FILE] [--samples 32] [--length 512] [--start 12] [--stop 20]

Each way runs over the same windows in a process of its own; "with block reconstruction" is the whole of ours,
with windows cut short too, which the naive way does not know. The bound that ours must keep: two sets of sums (AᵀA, AᵀE
of the fitted and of the held-out tokens, A the neurons of two layers), what solves them, one layer's new matrices, and
one batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import torch
from common import demo_text, open_demo, parser, peak_memory, table
from torch import Tensor

from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.edit.context import RepairTask
from lowrise.edit.gram import Gram, solve, two_grams, weight_of
from lowrise.edit.neurons import obs_selection
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import Matrix, captured
from lowrise.model.neurons import chosen
from lowrise.progress import Reporter


def whole(decoder: Decoder, windows: Windows, held_out: int, kept: list[int]) -> None:
    repair("refit", RepairTask(Student(decoder, kept), windows, held_out, Reporter(quiet=True)))


def ours(decoder: Decoder, windows: Windows, held_out: int, kept: list[int]) -> None:
    """What the naive way does: no block reconstruction, no window cut short."""
    with (
        mock.patch("lowrise.edit.refit.reconstruct_block", lambda _site: (0.0, 0.0)),
        mock.patch("lowrise.calibration.tokens.SHORT", windows.length),
    ):
        whole(decoder, windows, held_out, kept)


def naive(decoder: Decoder, windows: Windows, held_out: int, kept: list[int]) -> None:
    """A layer's inputs and errors of all tokens stored, and what the dense layers read and wrote."""
    rows = len(windows) - held_out
    h, calls = decoder.embed(windows.ids)
    first = next(layer for layer in kept if layer + 1 not in kept)
    for layer in range(first):
        h = decoder.step(layer, h, calls)
    dense, wanted = h, {}
    for layer in range(first, len(decoder)):
        dense_layer = decoder.layer(layer)
        matrices = dense_layer.attention_inputs[0].module, dense_layer.mlp_inputs[0].module
        write = dense_layer.attention_output
        with captured(matrices[0]) as to_attention, captured(matrices[1]) as to_mlp, captured(write.module) as heads:
            after = decoder.step(layer, dense, calls)
        attended = dense + heads[0] @ write.matrix(decoder.layers[layer].get_parameter(write.parameter))
        wanted[layer], dense = (to_attention[0], to_mlp[0], after, attended), after

    def sums(a: Tensor, e: Tensor, weight: Tensor) -> tuple[Gram, Gram]:
        fit, held = two_grams((a.shape[-1], e.shape[-1]), a.device)
        fit.add(a[:rows], e[:rows], weight[:rows])
        held.add(a[rows:], e[rows:], weight[rows:])
        return fit, held

    def put(layer: int, matrix: Matrix, change: Tensor) -> None:
        own = decoder.layers[layer].get_parameter(matrix.parameter)
        own.copy_(matrix.weight((matrix.matrix(own).double() + change).float()))

    def turn(layer: int, part: int, other: int) -> Tensor:
        with captured(inputs(decoder, layer)[part][0].module) as seen:
            decoder.step(layer, h, calls)
        return solve(*sums(seen[0], wanted[other][part] - seen[0], torch.ones(seen[0].shape[:-1]))).change

    for layer in kept[kept.index(first) :]:
        stop = Student(decoder, kept).following(layer)
        target = wanted[stop - 1][2]
        writes = decoder.layer(layer).attention_output, decoder.layer(layer).mlp_write
        for part, write in enumerate(writes):
            turns = {other: turn(layer, part, other) for other in (range(layer, stop) if part else [layer])}
            for matrix in inputs(decoder, layer)[part]:
                own = matrix.matrix(decoder.layers[layer].get_parameter(matrix.parameter)).double()
                put(layer, matrix, turns[layer] @ own)
            for other in range(layer + 1, stop) if part else ():
                if not lend(decoder, layer, other, turns[other], h, calls, target, sums):
                    break
            with captured(writes[0].module) as heads, captured(writes[1].module) as neurons:
                out = decoder.step(layer, h, calls)
            a, aim, missing = (heads, neurons)[part][0], target, target - out
            own = write.matrix(decoder.layers[layer].get_parameter(write.parameter))
            if not part and stop == layer + 1:
                aim = wanted[layer][3]
                missing = aim - h - a @ own
            elif not part:
                a = torch.cat([a, neurons[0]], -1)
            put(layer, write, solve(*sums(a, missing, weight_of(aim))).change[: len(own)])
        h = decoder.step(layer, h, calls)


def inputs(decoder: Decoder, layer: int) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
    own = decoder.layer(layer)
    return own.attention_inputs, own.mlp_inputs


def lend(
    decoder: Decoder, layer: int, other: int, turn: Tensor, h: Tensor, calls: Any, target: Tensor, sums: Any
) -> bool:
    """`layer` takes over neurons of `other`, all tokens at once."""
    write, theirs = decoder.layer(layer).mlp_write, decoder.layer(other).with_input_map(turn, decoder.dtype)
    own, lent = (write.matrix(decoder.layers[one].get_parameter(write.parameter)) for one in (layer, other))
    with captured(write.module) as inputs:
        out = decoder.step(layer, h, calls)
        decoder.step(layer, h, calls, theirs)
    fit, held = sums(torch.cat(inputs, -1), target - out - inputs[1] @ lent, weight_of(target))
    both, k = torch.cat([own, lent]).double(), len(own)
    rows = obs_selection(fit, both, k)
    assert rows is not None
    alone, solution = (solve(fit.keeping(these, both), held.keeping(these, both)) for these in (torch.arange(k), rows))
    if solution.after >= alone.after or int(rows.max()) < k:
        return False
    for name, axis in decoder.layer(layer).neuron_parameters.items():
        mine = decoder.layers[layer].get_parameter(name)
        mine.copy_(chosen(mine, theirs[name], axis, rows, k))
    decoder.layers[layer].get_parameter(write.parameter).copy_(write.weight((both[rows] + solution.change).float()))
    return True


WAYS = {"ours": ours, "naive": naive, "with block reconstruction": whole}


def main() -> None:
    options = parser(__doc__)
    for name, value in {"samples": 32, "length": 512, "start": 12, "stop": 20}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--child", choices=WAYS)
    asked = options.parse_args()
    if asked.child:
        print(json.dumps(child(asked)))
        return
    done: dict[str, dict[str, Any]] = {}
    for which in WAYS:
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
    print(f"two sets of sums, an inverse and its next: {fast['sums'] / 2**20:,.0f} MiB; a batch and a layer beside")


@torch.no_grad()
def child(asked: Any) -> dict[str, Any]:
    opened = open_demo(asked.model)
    stream = tokenise(opened.tokenizer, demo_text(asked.text), "text")
    windows = Windows(sample(pack([stream], asked.length), asked.samples, 0), "text", 0)
    opened.model(input_ids=windows.ids[:2], use_cache=False)
    held_out = max(1, asked.samples // 10)
    decoder = opened.decoder
    kept = [layer for layer in range(len(decoder)) if not asked.start <= layer < asked.stop]
    write = decoder.layer(0).mlp_write
    k, d = write.matrix(decoder.layers[0].get_parameter(write.parameter)).shape
    with peak_memory() as peak:
        began = time.perf_counter()
        WAYS[asked.child](decoder, windows, held_out, kept)
        seconds = time.perf_counter() - began
    loss = Student(decoder, kept).loss(Windows(windows.ids[-held_out:], "held out", 0))
    return {
        "seconds": seconds,
        "peak": peak.above,
        "sums": 8 * (4 * (2 * k) ** 2 + 2 * 2 * k * d),
        "loss": loss,
    }


if __name__ == "__main__":
    main()
