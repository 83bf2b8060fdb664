"""One thread against all of them, alone and beside one other busy process: writing text, and a layer's repair.

    python benchmarks/threads.py [--model M] [--samples 36] [--length 64] [--rounds 3]

Each way is a process of its own, as the command line starts one; they take turns. "spinning" is what torch's threads do
where nothing is said (`src/lowrise/threads.py`).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import open_demo, parser, table

from lowrise.calibration import Windows
from lowrise.calibration.written import write_windows
from lowrise.edit.context import RepairTask
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.progress import Reporter

WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all threads": {},
    "all threads, spinning": {"GOMP_SPINCOUNT": "300000"},
}


def child(model: str | None, samples: int, length: int) -> dict[str, float]:
    """Tokens a second of writing, seconds of a repair of the last layer but one on what was written."""
    opened, quiet = open_demo(model), Reporter(quiet=True)
    began = time.perf_counter()
    ids = write_windows(opened.decoder, opened.tokenizer, samples=samples, length=length, seed=0, progress=quiet)
    written = time.perf_counter() - began
    kept = [layer for layer in range(len(opened.decoder)) if layer != len(opened.decoder) - 2]
    began = time.perf_counter()
    repair("refit", RepairTask(Student(opened.decoder, kept), Windows(ids, "written", 0), max(1, samples // 10), quiet))
    return {"tokens/s": ids.numel() / written, "seconds": time.perf_counter() - began}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` other processes that always have something to do."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    options = parser(__doc__)
    for name, value in {"samples": 36, "length": 64, "rounds": 3}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--child", action="store_true", help="internal: run once and stop")
    asked = options.parse_args()
    if asked.child:
        print(json.dumps(child(asked.model, asked.samples, asked.length)))
        return
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    rows = []
    for others in (0, 1):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(asked.rounds):
            for way, environment in WAYS.items():
                command = [sys.executable, *sys.argv, "--child"]
                with busy(others):
                    said = subprocess.check_output(command, env={**rest, **environment}, text=True)
                found[way].append(json.loads(said.splitlines()[-1]))
        for way, runs in found.items():
            medians = [statistics.median(run[what] for run in runs) for what in ("tokens/s", "seconds")]
            beside = "beside a busy process" if others else "alone"
            rows.append([f"{way}, {beside}", f"{medians[0]:,.0f}", f"{medians[1]:.1f}"])
    print(table(["", "writing, tokens/s", "repair, seconds"], rows))


if __name__ == "__main__":
    main()
