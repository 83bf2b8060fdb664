"""A model larger than the memory it may use: time, peak memory and bytes, resident and with layers on disk.

    python benchmarks/streaming.py [--folder build/streaming] [--memory 2GB] [--layers 48] [--hidden 1536]
                                   [--neurons 4096] [--samples 4] [--length 128] [--remove 2] [--only NAME ...]
                                   [--tokenizer MODEL] [--keep-model]

A Llama of random float32 parameters, 1.5B of them as it stands, is made in the folder, and removed with all that was
made from it at the end. Each command is a process of its own, as a user starts it; its peak is the kernel's mark
(VmHWM), and beside it stand the largest shares seen of memory of its own (RssAnon) and of mapped files (RssFile).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from common import demo_text, table
from fetch_demo_model import fetch
from safetensors.torch import save_file
from transformers import LlamaConfig

from lowrise.model.source import open_tokenizer

SEED = 0


@dataclass
class Ran:
    """bytes: of the process at most, by kind. made: sha256 of what was written."""

    seconds: float
    bytes: dict[str, int]
    made: str


def make_model(folder: Path, source: str, layers: int, hidden: int, neurons: int) -> int:
    """A file a layer, never two in memory; how many parameters it has. source: whose tokenizer it takes."""
    tokenizer = open_tokenizer(source)
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    generator = torch.Generator().manual_seed(SEED)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5)

    square, up = (hidden, hidden), (neurons, hidden)
    shapes = {f"self_attn.{name}_proj": square for name in "qkvo"}
    shapes |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": (hidden, neurons)}
    places: dict[str, str] = {}
    total = 0
    for number in range(layers + 1):
        if number < layers:
            stem = f"model.layers.{number}."
            tensors = {f"{stem}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
            norms = ("input_layernorm", "post_attention_layernorm")
            tensors |= {f"{stem}{name}.weight": torch.ones(hidden) for name in norms}
        else:
            ends = ("model.embed_tokens.weight", "lm_head.weight")
            tensors = {name: matrix(len(tokenizer), hidden) for name in ends} | {
                "model.norm.weight": torch.ones(hidden)
            }
        file = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(value.numel() for value in tensors.values())
    index = {"metadata": {"total_size": 4 * total, "total_parameters": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def run(arguments: list[object], made: Path) -> Ran:
    command = [str(Path(sys.executable).with_name("lowrise")), *map(str, arguments), "--quiet"]
    peaks: dict[str, int] = {}
    cache = made.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)  # nothing is known of an earlier run
    began = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, "LOWRISE_CACHE": str(cache)}, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        for name, size in _memory_of(child.pid):
            peaks[name] = max(peaks.get(name, 0), size)
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return Ran(time.perf_counter() - began, peaks, _sha256(made))


def _memory_of(pid: int) -> Iterator[tuple[str, int]]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has just ended
        return
    for line in lines:
        name, _, rest = line.partition(":")
        if name in ("VmHWM", "RssAnon", "RssFile"):
            yield name, int(rest.split()[0]) * 1024


def _sha256(made: Path) -> str:
    """Of weights, or of a plan or results but for times, memory and versions."""
    found = hashlib.sha256()
    if made.is_dir():
        for file in sorted(made.glob("*.safetensors")):
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    else:
        content = json.loads(made.read_text(encoding="utf-8"))
        for key in ("seconds", "memory", "versions"):
            content.pop(key, None)
        found.update(json.dumps(content, sort_keys=True).encode())
    return found.hexdigest()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("build/streaming"))
    options.add_argument("--memory", default="2GB")
    options.add_argument("--tokenizer", help="of this model; default: the demo model, fetched if it is not there")
    for name, value in {
        "layers": 48, "hidden": 1536, "neurons": 4096, "samples": 4, "length": 128, "windows": 2, "remove": 2
    }.items():  # fmt: skip
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--only", nargs="*", help="rows whose name begins so")
    options.add_argument("--keep-model", action="store_true", help="for another run; the folder is not removed")
    asked = options.parse_args()
    folder: Path = asked.folder.resolve()
    model, text = folder / "model", folder / "text.txt"
    try:
        if not model.is_dir():
            count = make_model(model, asked.tokenizer or str(fetch()), asked.layers, asked.hidden, asked.neurons)
            print(f"a Llama of {count / 1e9:.2f}B float32 parameters, {4 * count / 1e9:.1f} GB", file=sys.stderr)
        text.write_text(demo_text(None)[:200_000], encoding="utf-8")
        print(
            table(["command", "resident", "streamed", "time", "peak", "peak streamed", "bytes"], [*rows(asked, folder)])
        )
    finally:
        if not asked.keep_model:
            shutil.rmtree(folder, ignore_errors=True)


def rows(asked: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    for name, arguments, made in commands(asked, folder):
        if not asked.only or any(name.startswith(one) for one in asked.only):
            yield compared(name, arguments, made, asked.memory)


def commands(asked: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[object], Path]]:
    """(name, arguments, what it writes)."""
    model, text, out = folder / "model", folder / "text.txt", folder / "out"
    here: list[object] = ["--device", "cpu", "--force"]
    data = ["--remove", asked.remove, "--text", text, "--samples", asked.samples, "--length", asked.length, *here]
    ways: dict[str, list[object]] = {
        "block-influence --repair refit": ["--preset", "block-influence", "--repair", "refit"],
        "streamline-none": ["--preset", "streamline-none"],
        "laco-mean": ["--preset", "laco-mean"],
    }
    for name, way in ways.items():
        plan = folder / f"{name.partition(' ')[0]}.json"
        yield f"plan, {name}", ["plan", model, *way, *data, "--out", plan], plan
        yield f"apply, {name}", ["apply", model, plan, *here, "--out", out], out
    results = folder / "results.json"
    measuring = ["measure", model, "--text", text, "--length", asked.length, "--windows", asked.windows]
    yield "perplexity", [*measuring, *here, "--out", results], results


def compared(name: str, arguments: list[object], made: Path, memory: str) -> list[str]:
    resident = run(arguments, made)
    streamed = run([*arguments, "--memory", memory], made)
    parts = " + ".join(f"{streamed.bytes[kind] / 1e9:.2f}" for kind in ("RssAnon", "RssFile"))
    row = [
        name,
        f"{resident.seconds:.0f} s",
        f"{streamed.seconds:.0f} s",
        f"×{streamed.seconds / resident.seconds:.2f}",
        f"{resident.bytes['VmHWM'] / 1e9:.2f} GB",
        f"{streamed.bytes['VmHWM'] / 1e9:.2f} GB ({parts})",
        "equal" if resident.made == streamed.made else "DIFFER",
    ]
    print(" | ".join(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
