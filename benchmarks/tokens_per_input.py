"""How far refit leads ReplaceMe's least squares, by how many tokens come to an input of the MLP's last matrix.

    python benchmarks/tokens_per_input.py --text A.txt [--text B.txt] --eval-text C.txt [--eval-text D.txt] [--model M]
        [--gone 12-17] [--samples 8,32,100] [--length 256] [--windows 8] [--repairs fold,refit] [--seed 0]

The same layers go in every row, and every repair starts from the dense weights and the same windows. Cells: perplexity
as a multiple of the dense model's, on windows of 512 tokens spread over texts that no repair saw; the lead is by how
much the last repair's lies below the first one's; CPU seconds are of this process, of each repair in turn.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from common import open_demo, spread, table
from torch import Tensor

from lowrise.calibration import calibration_windows
from lowrise.edit.context import RepairTask
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.methods import method
from lowrise.model.decoder import Decoder
from lowrise.pipeline.repairing import held_out_windows, special_tokens
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.sizes import named_layers

EVAL_LENGTH = 512
QUIET = Reporter(quiet=True)


@torch.no_grad()
def restore(decoder: Decoder, dense: dict[int, dict[str, Tensor]]) -> None:
    for layer, own in dense.items():
        for name, value in own.items():
            decoder.layers[layer].get_parameter(name).copy_(value)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="default: the demo model")
    options.add_argument("--text", action="append", required=True)
    options.add_argument("--eval-text", action="append", required=True)
    options.add_argument("--gone", default="12-17", help="layers")
    options.add_argument("--samples", default="8,32,100", help="calibration windows, of each row")
    options.add_argument("--repairs", default="fold,refit")
    for name, value in {"length": 256, "windows": 8, "seed": 0}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    opened = open_demo(asked.model)
    decoder, gone = opened.decoder, named_layers(asked.gone)
    kept = [layer for layer in range(len(decoder)) if layer not in gone]
    texts = [spread(opened, path, EVAL_LENGTH, asked.windows) for path in asked.eval_text]
    whole = Student(decoder)
    dense = [whole.loss(text) for text in texts]
    weights = {
        layer: {name: value.detach().clone() for name, value in decoder.layers[layer].named_parameters()}
        for layer in kept
        if layer >= gone[0] - 1
    }
    neurons, recipe, rows = decoder.layer(gone[0] - 1).neuron_count, build_recipe({"preset": "refit"}), []
    for samples in map(int, asked.samples.split(",")):
        found = calibration_windows(
            decoder,
            opened.tokenizer,
            text=asked.text,
            dataset=None,
            samples=samples,
            length=asked.length,
            seed=asked.seed,
            progress=QUIET,
        )
        held_out = len(held_out_windows(recipe, found))
        ratios, seconds = [], []
        for how in asked.repairs.split(","):
            windows = (
                found.with_special_tokens(special_tokens(opened)) if method("repair", how).special_tokens else found
            )
            began = time.process_time()
            repair(how, RepairTask(Student(decoder, kept), windows, held_out, QUIET))
            seconds.append(time.process_time() - began)
            student = Student(decoder, kept)
            ratios.append([math.exp(student.loss(text) - before) for text, before in zip(texts, dense, strict=True)])
            restore(decoder, weights)
        fitted = (len(found) - held_out) * found.length
        row = [f"{found.tokens:,}", f"{fitted / neurons:.1f}"]
        for one, by_repair in enumerate(zip(*ratios, strict=True)):
            row += [*(f"×{ratio:.3f}" for ratio in by_repair), f"{1 - ratios[-1][one] / ratios[0][one]:.1%}"]
        rows.append([*row, ", ".join(f"{each:.0f}" for each in seconds)])
        print(" ".join(rows[-1]), flush=True)
    header = ["tokens", "fitted an input"]
    for path in asked.eval_text:
        name = path.rpartition("/")[2]
        header += [*(f"{how}, {name}" for how in asked.repairs.split(",")), f"lead, {name}"]
    print(f"\nlayers {asked.gone} gone, windows of {asked.length}, seed {asked.seed}, {neurons} inputs")
    print(table([*header, "CPU seconds"], rows))


if __name__ == "__main__":
    main()
