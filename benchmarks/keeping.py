"""What keeping a run's work costs: processor seconds, and bytes on disk, of a whole run with a work folder and without.

    python benchmarks/keeping.py [--model M] [--text FILE] [--preset refit] [--remove 6] [--samples 8] [--length 128]

Each run is a fork of this process, which has made the imports. `kept` are seconds within `Work.keep`, of the run's own.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from common import demo_text, parser, table
from fetch_demo_model import fetch

from lowrise import pipeline
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, build_recipe
from lowrise.work import Work


class Costs:
    """seconds: within `Work.keep`. written: bytes that came to the disk by it. most: that the folder held at once."""

    def __init__(self) -> None:
        self.seconds, self.records, self.written, self.most = 0.0, 0, 0, 0
        self._keep, self._held = Work.keep, dict[Path, int]()

    def keep(self, work: Work, name: str, *given: Any, **how: Any) -> None:
        began = time.process_time()
        self._keep(work, name, *given, **how)
        self.seconds += time.process_time() - began
        if not work.keeps:
            return
        self.records += 1
        now = {file: file.stat().st_mtime_ns for file in work.place("x").parent.iterdir()}
        self.written += sum(file.stat().st_size for file, at in now.items() if self._held.get(file) != at)
        self._held = now
        self.most = max(self.most, sum(file.stat().st_size for file in now))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--preset", default="refit")
    options.add_argument("--remove", default="6")
    options.add_argument("--samples", type=int, default=8)
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--rounds", type=int, default=1, help="of each kind; the least seconds count")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="lowrise-keeping-") as name:
        os.environ["LOWRISE_CACHE"] = str(Path(name, "cache"))
        text = Path(name, "text.txt")
        text.write_text(demo_text(asked.text), encoding="utf-8")
        settings = {"model": asked.model or str(fetch()), "text": [str(text)], "windows": 1, "device": "cpu"}
        settings |= {key: getattr(asked, key) for key in ("preset", "remove", "samples", "length")}
        recipe = build_recipe(settings)
        _in_a_fork(recipe, Path(name, "first"), keeps=True)  # fills the cache of measurements, which all then use
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for turn in range(asked.rounds):
            for keeps in found:
                found[keeps].append(_in_a_fork(recipe, Path(name, f"{turn}-{keeps}"), keeps))
    rows = []
    for keeps, runs in found.items():
        best = min(runs, key=lambda run: run["total"])
        share = f"{best['seconds'] / best['total']:.2%}"
        cells = [f"{best['total']:.1f}", f"{best['seconds']:.2f}", share, f"{best['records']:.0f}"]
        cells += [f"{best[key] / 1e6:.1f}" for key in ("written", "most")]
        rows.append(["kept" if keeps else "not kept", *cells])
    header = ["", "processor seconds", "of them keeping", "share", "records", "MB written", "MB at once"]
    print(table(header, rows))


def _in_a_fork(recipe: Recipe, out: Path, keeps: bool) -> dict[str, float]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            gc.freeze()
            os.write(write, json.dumps(_cost(recipe, out, keeps)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read()
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the run failed")
    found: dict[str, float] = json.loads(said)
    return found


def _cost(recipe: Recipe, out: Path, keeps: bool) -> dict[str, float]:
    costs = Costs()
    alone = nullcontext() if keeps else mock.patch.object(pipeline, "claimed", lambda *_: nullcontext(False))
    with alone, mock.patch.object(Work, "keep", lambda work, *given, **how: costs.keep(work, *given, **how)):
        began = time.process_time()
        pipeline.run(recipe, out, False, Reporter(quiet=True))
        total = time.process_time() - began
    return {"total": total, **{key: getattr(costs, key) for key in ("seconds", "records", "written", "most")}}


if __name__ == "__main__":
    main()
