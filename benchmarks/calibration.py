"""What refit is calibrated on: the same cut repaired on each kind of text and seed, and what it keeps on other texts.

    python benchmarks/calibration.py --text A.txt --text B.txt --eval-text C.txt [--eval-text D.txt] [--model M]
        [--gone 9,12-15,17,19,21] [--samples 36] [--length 512] [--windows 12] [--seeds 0,1,2]

Rows: what the model writes itself, each text alone, all texts, all texts and as many windows of its own. Cells: the
mean over seeds of perplexity as a multiple of the dense model's, and the range.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from common import open_demo, spread, table

from lowrise.calibration import Windows, calibration_windows
from lowrise.edit.context import RepairTask
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.pipeline.repairing import held_out_windows, special_tokens
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe

QUIET = Reporter(quiet=True)


def kinds(texts: list[str]) -> Iterator[tuple[str, list[str], float]]:
    """(name, files, share that the model writes beside them)."""
    names = [text.rpartition("/")[2] for text in texts]
    yield "own text", [], 0.0
    yield from ((name, [text], 0.0) for name, text in zip(names, texts, strict=True))
    if len(texts) > 1:
        yield "all texts", texts, 0.0
    yield f"{names[0] if len(texts) == 1 else 'all texts'} and own, half and half", texts, 0.5


def layers(asked: str) -> set[int]:
    """9,12-15 → {9, 12, 13, 14, 15}."""
    ends = [part.partition("-") for part in asked.split(",")]
    return {layer for first, _, last in ends for layer in range(int(first), int(last or first) + 1)}


def losses(asked: argparse.Namespace, files: list[str], written: float, seed: int, texts: list[Windows]) -> list[float]:
    """Of the repaired model, a text each."""
    opened = open_demo(asked.model)
    decoder = opened.decoder
    found = calibration_windows(
        decoder,
        opened.tokenizer,
        text=files,
        dataset=None,
        samples=asked.samples,
        length=asked.length,
        seed=seed,
        progress=QUIET,
        written=written,
    )
    windows = found.with_special_tokens(special_tokens(opened))
    kept = [layer for layer in range(len(decoder)) if layer not in layers(asked.gone)]
    student = Student(decoder, kept)
    held_out = len(held_out_windows(build_recipe({"preset": "refit"}), found))
    repair("refit", RepairTask(student, windows, held_out, QUIET))
    return [student.loss(text) for text in texts]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="default: the demo model")
    options.add_argument("--text", action="append", required=True)
    options.add_argument("--eval-text", action="append", required=True)
    options.add_argument("--gone", default="9,12-15,17,19,21")
    options.add_argument("--seeds", default="0,1,2")
    for name, value in {"samples": 36, "length": 512, "windows": 12}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    opened = open_demo(asked.model)
    texts = [spread(opened, path, asked.length, asked.windows) for path in asked.eval_text]
    whole = Student(opened.decoder, list(range(len(opened.decoder))))
    dense = [whole.loss(text) for text in texts]
    rows = []
    for name, files, written in kinds(asked.text):
        after = zip(*(losses(asked, files, written, seed, texts) for seed in seeds), strict=True)
        by_text = [[math.exp(loss - before) for loss in each] for before, each in zip(dense, after, strict=True)]
        cells = [f"{sum(each) / len(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in by_text]
        rows.append([name, *cells])
        print(" ".join(rows[-1]), flush=True)
    print(f"\nlayers {asked.gone} gone, {asked.samples} windows of {asked.length}, seeds {asked.seeds}")
    print(table(["calibration", *(path.rpartition("/")[2] for path in asked.eval_text)], rows))


if __name__ == "__main__":
    main()
