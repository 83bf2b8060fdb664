"""LaCo's search against a naive version of it: same decisions, time and memory as ratios from one run.

    python benchmarks/laco.py [--model M] [--text FILE] [--rule sum|last|mean] [--threshold T]

The naive version does what Algorithm 1 says and the published notebooks do: it copies the current model for every
trial and runs the dense and the merged model in full on every sentence. Each version runs in a process of its own;
memory is counted above what that process has after loading the model and running it once.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import demo_text, open_demo, parser, peak_memory, table

from lowrise.calibration.sentences import Sentences, calibration_sentences
from lowrise.progress import Reporter
from lowrise.select.merge_search import merge_search
from lowrise.settings import MergeSearch

BLOCKS = ("self_attn", "mlp")
WORDS, SENTENCES = 16, 10


@torch.no_grad()
def naive(dense: Any, sentences: Sentences, settings: MergeSearch) -> list[dict[str, Any]]:
    """Algorithm 1 with a full copy a trial and two full passes a sentence; families with `model.layers` only."""
    current, trials = dense, []
    assert settings.threshold is not None
    layer = len(dense.model.layers) - settings.combine
    while layer >= settings.low:
        more = min(settings.combine - 1, len(current.model.layers) - layer - 1)
        merged = naive_merge(current, layer, more, settings.rule)
        similarity = naive_similarity(merged, dense, sentences)
        accepted = similarity > settings.threshold
        trials.append({"layer": layer, "count": more + 1, "similarity": similarity, "accepted": accepted})
        if accepted:
            current = merged
            layer = min(layer - settings.interval, len(current.model.layers) - settings.combine)
        else:
            layer -= 1
        del merged
    return trials


def naive_merge(model: Any, layer: int, more: int, rule: str) -> Any:
    """A copy of the model whose layers layer..layer + more are one, attention and MLP alone merged."""
    merged = copy.deepcopy(model)
    layers, stay = model.model.layers, merged.model.layers[layer]
    for block in BLOCKS:
        for name, value in getattr(stay, block).named_parameters():
            own = getattr(layers[layer], block).get_parameter(name)
            others = [getattr(layers[layer + k], block).get_parameter(name) for k in range(1, more + 1)]
            for other in others:
                if rule == "sum":
                    value.add_(other - own)
                elif rule == "last":
                    value.add_(other - value)
                else:
                    value.add_((other - own) / (more + 1))
    kept = [one for index, one in enumerate(merged.model.layers) if not layer < index <= layer + more]
    merged.model.layers = torch.nn.ModuleList(kept)
    merged.config.num_hidden_layers = len(kept)
    return merged


def naive_similarity(merged: Any, dense: Any, sentences: Sentences) -> float:
    total = 0.0
    for row, mask in zip(sentences.ids, sentences.mask, strict=True):
        ids = row[mask].unsqueeze(0)
        ours, reference = (
            model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1].flatten()
            for model in (merged, dense)
        )
        total += float(torch.nn.functional.cosine_similarity(ours, reference, dim=0))
    return total / len(sentences)


def child(which: str, model: str | None, text: str, settings: MergeSearch) -> dict[str, Any]:
    opened, quiet = open_demo(model), Reporter(quiet=True)
    sentences = calibration_sentences(
        opened.decoder,
        opened.tokenizer,
        text=[text],
        dataset=None,
        samples=SENTENCES,
        words=WORDS,
        length=min(512, opened.decoder.max_length),
        seed=0,
        progress=quiet,
    )
    with torch.no_grad():
        opened.model(input_ids=sentences.ids, use_cache=False)
    with peak_memory() as peak:
        began, cpu = time.perf_counter(), time.process_time()
        if which == "naive":
            trials = naive(opened.model, sentences, settings)
        else:
            trials = merge_search(opened.decoder, sentences, settings, None, quiet).trials
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    size = opened.decoder.parameters() * opened.decoder.dtype.itemsize
    return {
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak.above / size,
        "tokens": sentences.tokens,
        "trials": [[one["layer"], one["count"], one["accepted"], one["similarity"]] for one in trials],
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rule", default="sum", choices=["sum", "last", "mean"])
    options.add_argument("--threshold", type=float, default=0.65)
    options.add_argument("--child", choices=["naive", "ours"])
    asked = options.parse_args()
    settings = MergeSearch(combine=4, interval=2, rule=asked.rule, threshold=asked.threshold)
    if asked.child:
        print(json.dumps(child(asked.child, asked.model, asked.text, settings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(demo_text(asked.text), encoding="utf-8")
        done: dict[str, dict[str, Any]] = {}
        for which in ("ours", "naive", "ours"):  # before and after: on a shared machine the slower one counts
            command = [sys.executable, __file__, *sys.argv[1:], "--text", str(text), "--child", which]
            one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            done[which] = max(done.get(which, one), one, key=lambda run: run["seconds"])
    ours, slow = done["ours"], done["naive"]
    same = [one[:3] for one in ours["trials"]] == [one[:3] for one in slow["trials"]]
    apart = max(abs(a[3] - b[3]) for a, b in zip(ours["trials"], slow["trials"], strict=False))
    accepted = sum(one[2] for one in ours["trials"])
    print(
        f"rule {asked.rule}, T = {asked.threshold}, C = 4, I = 2: {len(ours['trials'])} trials, {accepted} accepted, ",
        end="",
    )
    print(f"{ours['tokens']} tokens; decisions {'equal' if same else 'DIFFER'}, similarities to {apart:.1e}")
    rows = [
        [which, f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", f"{one['peak']:.1%} of the model"]
        for which, one in done.items()
    ]
    rows.append(["naive / ours", *(f"{slow[key] / ours[key]:.1f}" for key in ("seconds", "cpu", "peak"))])
    print(table(["", "seconds", "processor seconds", "peak above the loaded model"], rows))


if __name__ == "__main__":
    main()
