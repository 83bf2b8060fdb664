"""A whole run by stages, of one or several trees of the source beside each other: seconds, CPU seconds, what was kept.

    python benchmarks/run.py [--tree DIR ...] [--model M] [--text FILE] [--eval-text FILE] [--preset refit]
        [--remove 25%] [--samples 128] [--length 512] [--windows 8] [--more "--search-budget 0.5"]

--tree: a checkout; the first is what the others are compared to [default: this one alone]. Given several times
together with --more it is one row of settings a tree. Each run is a process of its own, with an empty cache, and they
take turns. "of it" are parts of the stage above them, counted wherever they are called.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What a part of a stage is called, and where the functions lie that do it; a tree that lacks one has no such row.
PARTS = {
    "neurons of layers that go": ("lowrise.edit.refit:transplant", "lowrise.select.refit_trials:transplant"),
    "block reconstruction": ("lowrise.edit.refit:reconstruct_block",),
    "a layer's writes": ("lowrise.edit.refit:refit_write", "lowrise.edit.refit:_refit_attention_write"),
    "a layer's reads": ("lowrise.edit.refit:fit_input_map",),
    "the dense model": ("lowrise.edit.refit:_pass_dense",),
    "the student above a trial": ("lowrise.select.refit_trials:Search._missed",),
}


class Spent:
    """Seconds and CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._stages: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.cpu[name] += time.process_time() - cpu

    def stages(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        """`Clock.stage`, noted; what goes on within another stage is that one's."""

        @contextmanager
        def noted(clock: Any, name: str) -> Iterator[None]:
            if self._stages:
                with stage(clock, name):
                    yield
                return
            self._stages.append(name)
            try:
                with self.part(name), stage(clock, name):
                    yield
            finally:
                self._stages.pop()

        return noted

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            with self.part(f"{self._stages[-1] if self._stages else 'rest'}: {name}"):
                return function(*args, **kwargs)

        return noted


def child(arguments: list[str], report: Path) -> None:
    """`lowrise` with these arguments, in this process; what it spent is written to `report`."""
    spent = Spent()
    with spent.part("import"):
        cli, clock = import_module("lowrise.cli"), import_module("lowrise.pipeline.clock")
        import_module("lowrise.pipeline")
    clock.Clock.stage = spent.stages(clock.Clock.stage)
    for name, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            *classes, function = path.split(".")
            try:
                owner: Any = import_module(module)
            except ModuleNotFoundError:
                continue
            for one in classes:
                owner = getattr(owner, one, None)
            if hasattr(owner, function):
                setattr(owner, function, spent.counted(name, getattr(owner, function)))
    sys.argv = ["lowrise", *arguments]
    status = 0
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    spent.seconds["all"], spent.cpu["all"] = time.perf_counter() - BEGAN, time.process_time()
    report.write_text(json.dumps({"seconds": spent.seconds, "cpu": spent.cpu}))
    sys.exit(status)


def measured(tree: Path, arguments: list[str], folder: Path) -> dict[str, Any]:
    """What `lowrise run` of a tree spent and found."""
    out, report = folder / "out", folder / "report.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(report), *arguments, "--out", str(out)]
    more = {"PYTHONPATH": str(tree / "src"), "LOWRISE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env={**os.environ, **more}, stdout=sys.stderr)
    results, plan = (json.loads((out / "lowrise" / f"{name}.json").read_text()) for name in ("results", "plan"))
    return {**json.loads(report.read_text()), "results": results, "plan": plan}


def rows_of(runs: list[dict[str, Any]]) -> list[list[str]]:
    """Stages in the order of the first run, each with its parts below it; at last what no stage counts, and all."""
    stages = [name for run in runs for name in run["seconds"] if ": " not in name and name != "all"]
    rows = []
    for stage in dict.fromkeys(stages):
        rows.append([stage, *(cell for run in runs for cell in _spent(run, stage))])
        parts = [name for run in runs for name in run["seconds"] if name.startswith(f"{stage}: ")]
        for part in dict.fromkeys(parts):
            rows.append([f"of it {part.partition(': ')[2]}", *(cell for run in runs for cell in _spent(run, part))])
    for run in runs:
        for kind in ("seconds", "cpu"):
            known = sum(value for name, value in run[kind].items() if ": " not in name and name != "all")
            run[kind]["rest"] = run[kind]["all"] - known
    rows += [[f"**{name}**", *(cell for run in runs for cell in _spent(run, name))] for name in ("rest", "all")]
    return rows


def _spent(run: dict[str, Any], name: str) -> list[str]:
    return [f"{run[kind][name]:,.1f}" if name in run[kind] else "" for kind in ("seconds", "cpu")]


def found_of(run: dict[str, Any]) -> list[str]:
    """Layers gone, perplexity by text, agreement, peak memory."""
    results = run["results"]
    gone = ", ".join(
        f"[{edit['start']}, {edit['stop']})" if edit["stop"] > edit["start"] + 1 else str(edit["start"])
        for edit in run["plan"]["edits"]
    )
    kept = results["retained"]["perplexity_ratio"]
    values = [f"{name} {results['perplexity'][name]['value']:.3f} (×{ratio:.4f})" for name, ratio in kept.items()]
    agreement = results.get("generation", {}).get("agreement")
    memory = max((value for value in results["memory"].values() if isinstance(value, int)), default=0)
    return [
        gone,
        "; ".join(values),
        "" if agreement is None else f"{agreement:.2%}",
        f"{memory / 2**30:.2f} GiB",
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tree", type=Path, action="append", help="default: this one")
    options.add_argument("--more", action="append", help="options of `lowrise run`, one text a tree")
    options.add_argument("--model", help="default: the demo model, fetched if it is not there")
    options.add_argument("--text", action="append", help="default: one half of the language reference")
    options.add_argument("--eval-text", action="append", help="default: its other half")
    for name, value in {"preset": "refit", "remove": "25%", "samples": "128", "length": "512", "windows": "8"}.items():
        options.add_argument(f"--{name}", default=value, help=f"default: {value.replace('%', '%%')}")
    asked = options.parse_args()
    trees, more = asked.tree or [ROOT], asked.more or [""]
    count = max(len(trees), len(more))
    trees, more = (list if len(list) == count else list * count for list in (trees, more))
    sys.path.insert(0, str(ROOT / "scripts"))
    from fetch_demo_model import fetch

    given = ["run", asked.model or str(fetch())]
    for name in ("preset", "remove", "samples", "length", "windows"):
        given += [f"--{name}", getattr(asked, name)]
    with tempfile.TemporaryDirectory(prefix="lowrise-benchmark-") as name:
        halves = {half: Path(name) / f"{half}.txt" for half in ("calibration", "evaluation")}
        for first, file in enumerate(halves.values()):
            file.write_text("\n\n".join(topics[topic] for topic in sorted(topics)[first::2]), encoding="utf-8")
        for option, texts, usual in (
            ("--text", asked.text, halves["calibration"]),
            ("--eval-text", asked.eval_text, halves["evaluation"]),
        ):
            given += [word for text in texts or [str(usual)] for word in (option, text)]
        runs = []
        for number, (tree, own) in enumerate(zip(trees[:count], more[:count], strict=True)):
            folder = Path(name) / str(number)
            folder.mkdir()
            runs.append(measured(tree, [*given, *shlex.split(own)], folder))
    names = [f"{tree.resolve().name} {own}".strip() for tree, own in zip(trees[:count], more[:count], strict=True)]
    header = ["", *(f"{name}: {kind}" for name in names for kind in ("seconds", "CPU seconds"))]
    print(table(header, rows_of(runs)))
    print()
    print(table(["", "layers gone", "perplexity", "same greedy tokens", "peak memory"],
                [[name, *found_of(run)] for name, run in zip(names, runs, strict=True)]))  # fmt: skip


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


BEGAN = time.perf_counter()
if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[3:], Path(sys.argv[2]))
    else:
        main()
