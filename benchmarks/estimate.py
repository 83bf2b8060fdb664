"""Estimate against measured, stage by stage, and how time grows with layers × tokens × parameters.

    python benchmarks/estimate.py [--models demo,random-300m,...] [--preset refit] [--samples 16] [--length 256]

The demo model is real; the others are Llamas of random weights, made here. Each runs in a process of its own, first
`--dry-run` (config and one random layer), then the run itself, whose own lines and seconds by stage are compared.
A cache of its own keeps no measurement from before. --processor counts seconds of the processor in place of the
clock's, in what is estimated and in what is measured: for a machine that others use too, run on one thread
(OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import demo_text, table
from fetch_demo_model import fetch

from lowrise.results import Estimate

# (layers, hidden, inner, heads, key heads): of random Llamas, with the demo model's tokenizer
RANDOM = {
    "random-25m": (8, 256, 768, 4, 2),
    "random-300m": (24, 1024, 2816, 16, 8),
    "random-500m": (24, 896, 4864, 14, 2),
    "random-1500m": (24, 2048, 5632, 32, 8),
}

BY_PROCESSOR = "import time; time.perf_counter = time.process_time; from lowrise.cli import main; main()"


@dataclass(frozen=True)
class Compared:
    model: str
    said: Estimate
    seconds: dict[str, float]
    peak: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", default="demo,random-25m", help=f"demo, a folder, or of {', '.join(RANDOM)}")
    options.add_argument("--preset", default="refit")
    options.add_argument("--repair", help="default: the preset's")
    options.add_argument("--remove", default="25%")
    options.add_argument("--samples", default="16")
    options.add_argument("--length", default="256")
    options.add_argument("--windows", default="4")
    options.add_argument("--text", help="default: the language reference that every Python carries")
    options.add_argument("--processor", action="store_true", help="seconds of the processor, for a busy machine")
    given = options.parse_args()
    rows, found = [], []
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "text.txt"
        text.write_text(demo_text(given.text), encoding="utf-8")
        for name in given.models.split(","):
            folder = made(name, Path(place))
            one = compared(name, folder, text, given, Path(place) / "out")
            found.append(one)
            rows += rows_of(one)
    print(table(["model", "stage", "estimated", "measured", "estimated / measured"], rows))
    if len(found) > 1:
        print()
        print(
            table(
                ["model", "layers × tokens × parameters of a layer", "search and repair", "seconds / 10¹²"],
                growth(found),
            )
        )


def made(name: str, place: Path) -> str:
    if name == "demo":
        return str(fetch())
    if name not in RANDOM:
        return name
    import torch  # not by what measures alone
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    layers, hidden, inner, heads, key_heads = RANDOM[name]
    source = fetch()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=key_heads, vocab_size=len(tokenizer), tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = place / name
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def compared(name: str, folder: str, text: Path, given: Any, out: Path) -> Compared:
    asked = ["run", folder, "--preset", given.preset, "--remove", given.remove, "--samples", given.samples]
    asked += ["--length", given.length, "--text", str(text), "--eval-text", str(text), "--windows", given.windows]
    asked += ["--device", "cpu", "--out", str(out), "--force", "--fresh", "--json"]
    asked += ["--repair", given.repair] if given.repair else []
    said = Estimate.model_validate_json(ran([*asked, "--dry-run"], out, given.processor))
    done = json.loads(ran(asked, out, given.processor))
    return Compared(name, said, done["seconds"], done["memory"]["peak_resident_bytes"])


def ran(arguments: list[str], out: Path, processor: bool) -> str:
    environment = {**os.environ, "LOWRISE_CACHE": str(out.with_name("cache"))}
    program = ["-c", BY_PROCESSOR] if processor else ["-m", "lowrise"]
    command = [sys.executable, *program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    sys.stderr.write(done.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def rows_of(one: Compared) -> list[list[str]]:
    said = one.said.by_stage()
    rows = []
    for stage, seconds in one.seconds.items():
        guess = said.get(stage, one.said.seconds if stage == "total" else 0.0)
        if max(guess, seconds) >= 0.5:
            rows.append([one.model, stage, f"{guess:,.1f} s", f"{seconds:,.1f} s", ratio(guess, seconds)])
    peak = one.said.memory_bytes
    memory = [f"{peak / 1e6:,.0f} MB", f"{one.peak / 1e6:,.0f} MB", ratio(peak, one.peak)]
    return [*rows, [one.model, "peak memory", *memory]]


def ratio(said: float, found: float) -> str:
    return f"{said / found:.2f}" if found else "-"


def growth(found: list[Compared]) -> list[list[str]]:
    """Time against what it should grow with."""
    rows = []
    for one in found:
        layers, hidden, inner, heads, key_heads = RANDOM.get(one.model, (30, 576, 1536, 9, 3))
        size = hidden * hidden // heads
        parameters = size * (2 * heads + 2 * key_heads) + 3 * hidden * inner
        work = layers * one.said.tokens * parameters
        seconds = sum(one.seconds.get(stage, 0.0) for stage in ("search", "observe", "repair", "training", "pairs"))
        rows.append([one.model, f"{work:.2e}", f"{seconds:,.1f} s", f"{seconds / work * 1e12:.3g}"])
    return rows


if __name__ == "__main__":
    main()
