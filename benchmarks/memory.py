"""Peak resident memory of whole runs, stage by stage, against what they have to hold.

    python benchmarks/memory.py [--model M] [--text FILE] [--presets a,b] [--remove 4] [--samples 12] [--length 256]

Each run is a process of its own. The bound is 1.3 times the weights, the sums and factors of a repair, one batch, and
what Python and its packages take before a model is opened.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import demo_text, parser, table

PRESETS = "refit,refit-span,streamline-none,laco-mean"
SHARE = 1.3


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--presets", default=PRESETS)
    arguments.add_argument("--remove", type=int, default=4)
    arguments.add_argument("--samples", type=int, default=12)
    arguments.add_argument("--length", type=int, default=256)
    arguments.add_argument("--run-of", help="internal: run this preset, print the peaks of its stages, and stop")
    given = arguments.parse_args()
    if given.run_of:
        print(json.dumps(run_of(given)))
        return
    found = {preset: child(preset) for preset in given.presets.split(",")}
    print(f"{given.remove} layers gone, {given.samples} windows of {given.length} tokens; resident MiB")
    stages = list(dict.fromkeys(stage for one in found.values() for stage in one["stages"]))
    rows = [[stage, *(_mib(one["stages"].get(stage)) for one in found.values())] for stage in stages]
    rows.append(["whole run", *(_mib(max(one["stages"].values())) for one in found.values())])
    rows.append(["before a model is opened", *(_mib(one["imports"]) for one in found.values())])
    rows.append(["weights", *(_mib(one["weights"]) for one in found.values())])
    rows.append(["sums and factors", *(_mib(one["sums"]) for one in found.values())])
    rows.append(["a batch", *(_mib(one["batch"]) for one in found.values())])
    rows.append(["bound", *(_mib(bound(one)) for one in found.values())])
    print(table(["peak in", *found], rows))


def bound(one: dict[str, Any]) -> float:
    return float(one["imports"] + SHARE * one["weights"] + one["sums"] + one["batch"])


def child(preset: str) -> dict[str, Any]:
    lines = subprocess.check_output([sys.executable, *sys.argv, "--run-of", preset], text=True).splitlines()
    made: dict[str, Any] = json.loads(lines[-1])
    return made


def run_of(given: Any) -> dict[str, Any]:
    """Bytes: the peak of every stage, and what the bound is made of."""
    import lowrise.pipeline as pipeline
    from lowrise.edit.gram import Gram
    from lowrise.pipeline.clock import Clock
    from lowrise.progress import Reporter
    from lowrise.recipe import build_recipe

    try:
        from lowrise.heap import map_large_blocks
    except ImportError:  # of a version before
        pass
    else:
        map_large_blocks()
    gc.collect()
    stages: dict[str, int] = {}
    sizes = {"imports": _now("VmRSS"), "weights": 0, "sums": 0, "batch": 0}
    stage, start, opened_from = Clock.stage, Gram.__init__, pipeline.open_for_planning  # type: ignore[attr-defined]

    @contextmanager
    def watched(clock: Clock, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")
        try:
            with stage(clock, name):
                yield
        finally:
            stages[name] = max(stages.get(name, 0), _now("VmHWM"))
            if os.environ.get("LOWRISE_STAGES"):
                print(f"{name}: peak {_mib(stages[name])}, then {_mib(_now('VmRSS'))}", file=sys.stderr)

    def counted(gram: Gram, k: int, d: int, device: Any) -> None:
        start(gram, k, d, device)
        # those of fitted and of held-out tokens, a factor and what it is made from
        sizes["sums"] = max(sizes["sums"], 8 * (4 * k * k + 2 * k * d))

    def opening(run: Any) -> Any:
        opened, k = opened_from(run)
        decoder = opened.decoder
        sizes["weights"] = sum(one.nbytes for one in decoder.model.parameters())
        widest = max(max(one.shape) for one in decoder.layers[0].parameters())
        tokens = max(decoder.batch_tokens, given.length)
        # states before all layers, what a layer makes of a batch, and a piece of logits with what a loss makes of it
        sizes["batch"] = 4 * tokens * (decoder.hidden_size * (len(decoder) + 9) + 8 * widest) + 3 * 4 * 2**23
        return opened, k

    Clock.stage = watched  # type: ignore[assignment,method-assign]
    Gram.__init__ = counted  # type: ignore[assignment,method-assign]
    pipeline.open_for_planning = opening  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(demo_text(given.text), encoding="utf-8")
        os.environ["LOWRISE_CACHE"] = str(Path(folder) / "cache")
        settings = {
            "model": given.model or _demo_model(),
            "preset": given.run_of,
            "remove": given.remove,
            "text": [str(text)],
            "eval_text": [str(text)],
            "windows": 2,
            "samples": given.samples,
            "length": given.length,
            "device": "cpu",
        }
        pipeline.run(build_recipe(settings), Path(folder) / "out", False, Reporter(quiet=True))
    return {"stages": stages, **sizes}


def _demo_model() -> str:
    from fetch_demo_model import fetch

    return str(fetch())


def _now(name: str) -> int:
    """Bytes: VmRSS, resident now; VmHWM, at most since `clear_refs`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    marks = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(marks[name].split()[0]) * 1024


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f}"


if __name__ == "__main__":
    main()
