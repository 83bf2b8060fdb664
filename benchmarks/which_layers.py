"""Which layers each criterion takes, at several sizes: what docs/pictures/which-layers.svg shows.

    python benchmarks/which_layers.py [--model M] [--text FILE] [--sizes 4,8,12] [--samples 16] [--out CSV]

States are observed once for all criteria that look at them. Searches with a repair in the loop take long: their rows
stay in the file as they are, from the runs that docs/log.md tells of. Rows of the criteria below are made anew.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import demo_text, open_demo, parser

from lowrise.calibration.sentences import Sentences, calibration_sentences
from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.errors import RecipeError
from lowrise.methods import load, method
from lowrise.model.source import OpenModel
from lowrise.observe.stream import Observation, observe
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.select.choice import Choice
from lowrise.select.selection import Selection

HEAD = ("preset", "layers gone", "layers", "from")
# Row of the picture, a preset with its criterion, and settings beside it.
QUICK: dict[str, tuple[str, dict[str, Any]]] = {
    "streamline, replaceme": ("streamline-none", {}),
    "the same, --avoid-massive": ("streamline-none", {"avoid_massive": True}),
    "angular": ("angular", {}),
    "block-influence": ("block-influence", {}),
    "lorp": ("lorp", {}),
    "taylor": ("taylor", {}),
    "laco-last": ("laco-last", {}),
    "laco-mean": ("laco-mean", {}),
    "tail": ("tail", {}),
    "random, seed 0": ("random", {}),
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", action="append", choices=[*QUICK], help="this row alone; may be said again")
    arguments.add_argument("--sizes", default="4,8,12", help="layers gone; default: 4,8,12")
    arguments.add_argument("--samples", type=int, default=16)
    arguments.add_argument("--length", type=int, default=256)
    arguments.add_argument("--out", type=Path, help="a CSV whose other rows are kept; default: print alone")
    given = arguments.parse_args()
    opened = open_demo(given.model)
    text = demo_text(given.text)
    stream = tokenise(opened.tokenizer, text, "text")
    windows = Windows(sample(pack([stream], given.length), given.samples, 0), "text", 0)
    sentences = ten_sentences(opened, text)
    seen: Observation | None = None
    source = " ".join(["benchmarks/which_layers.py", *sys.argv[1:]]).replace(f" --out {given.out}", "")
    rows = []
    for name, (preset, settings) in QUICK.items():
        if given.only and name not in given.only:
            continue
        for size in map(int, given.sizes.split(",")):
            if seen is None and method("criterion", build_recipe({"preset": preset}).select).looks_at == "states":
                with torch.no_grad():
                    seen = observe(opened.decoder, windows, Reporter(quiet=True))
            try:
                choice = chosen(opened, preset, {**settings, "remove": size}, windows, sentences, seen)
            except RecipeError as error:  # too few layers may go
                print(f"{name},{size}: {error}")
                continue
            rows.append((name, str(size), as_text(gone(choice)), source))
            print(",".join(rows[-1][:3]), flush=True)
    if given.out is not None:
        write(given.out, rows)


def ten_sentences(opened: OpenModel, text: str) -> Sentences:
    """What a merge search looks at."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.txt")
        file.write_text(text, encoding="utf-8")
        how: dict[str, Any] = {"text": [str(file)], "dataset": None, "samples": 10, "words": 16, "length": 256}
        return calibration_sentences(opened.decoder, opened.tokenizer, seed=0, progress=Reporter(quiet=True), **how)


def chosen(
    opened: OpenModel,
    preset: str,
    settings: dict[str, Any],
    windows: Windows,
    sentences: Sentences,
    seen: Observation | None,
) -> Choice:
    recipe = build_recipe({"preset": preset, **settings})
    row = method("criterion", recipe.select)
    tokens = sentences if row.looks_at == "sentences" else windows
    selection = Selection(opened.decoder, int(settings["remove"]), recipe, tokens, [], Reporter(quiet=True))
    if seen is not None:
        selection.observation = seen
    choice: Choice = load(str(row.function))(selection)
    return choice


def gone(choice: Choice) -> Iterator[int]:
    """Of layers that become one the first is where the others were."""
    spans = choice.spans if choice.merges is None else [(merge.start + 1, merge.stop) for merge in choice.merges]
    for start, stop in spans:
        yield from range(start, stop)


def as_text(layers: Iterable[int]) -> str:
    """1, 2, 3, 7 → `1-3 7`."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return " ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def write(out: Path, rows: list[tuple[str, str, str, str]]) -> None:
    kept: list[tuple[str, ...]] = []
    if out.is_file():
        with out.open(encoding="utf-8", newline="") as stream:
            kept = [tuple(row) for row in csv.reader(stream)][1:]
    made = {row[0] for row in rows}
    kept = [row for row in kept if row[0] not in made]
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
