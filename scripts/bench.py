"""Run benchmarks and keep their tables in benchmarks/all.md, each with its command, its machine and its day.

python scripts/bench.py [NAME ...] [--out FILE] [--more "OPTIONS"]

Without names: all that take minutes on the demo model. Sections of the file whose benchmark was not run stay as they
are. --more: options for every one of them, behind its own.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from demo import texts
from fetch_demo_model import FOLDER

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "all.md"
# CALIBRATION and EVALUATION: halves of the language reference that every Python carries, as `make demo` has them
MINUTES = {
    "memory": "",
    "observe": "",
    "writing": "",
    "threads": "",
    "repair": "",
    "laco": "",
    "greedy": "",
    "heal": "",
    "keeping": "--preset refit-span --remove 4",
    "which_layers": "",
    "run": "--preset refit-span --remove 4 --samples 32 --windows 8 --text CALIBRATION --eval-text EVALUATION",
    "streamline": "--text CALIBRATION --eval-text EVALUATION --samples 16 --windows 6",
    "estimate": "--preset block-influence --models demo,random-300m",
}
HOURS = {
    "streaming": "--neurons 2048 --layers 72 --samples 16",
    "tokens_per_input": "--text CALIBRATION --eval-text EVALUATION",
    "calibration": "--text CALIBRATION --eval-text EVALUATION",
    "train_small": "lfm2 --text CALIBRATION --minutes 10 --out build/small",
}
HEAD = """# Benchmarks

Written by `make bench` (`python scripts/bench.py NAME` for one of them). Ratios count, of ways that took turns in one
run: machines differ, and times of different sections are not to be compared.
"""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MINUTES, *HOURS]))
    options.add_argument("--out", type=Path, default=PAGE, help="default: benchmarks/all.md")
    options.add_argument("--more", default="")
    asked = options.parse_args()
    if unknown := {*asked.names} - {*MINUTES, *HOURS}:
        options.error(f"{sorted(unknown)[0]}: expected one of {', '.join([*MINUTES, *HOURS])}")
    failed = []
    for name in asked.names or MINUTES:
        ended, section = measured(name, asked.more)
        if ended:
            failed.append(name)
            continue
        sections = {**known(asked.out), name: section}
        ordered = [sections[one] for one in (*MINUTES, *HOURS) if one in sections]
        asked.out.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")
    print(f"written: {asked.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def measured(name: str, more: str) -> tuple[int, str]:
    """(exit status, its section)."""
    program = ROOT / "benchmarks" / f"{name}.py"
    given = [*shlex.split({**MINUTES, **HOURS}[name]), *shlex.split(more)]
    calibration, evaluation = texts(FOLDER)
    places = {"CALIBRATION": str(calibration), "EVALUATION": str(evaluation)}
    command = f"python benchmarks/{name}.py {shlex.join(given)}".strip()
    print(f"$ {command}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, str(program), *(places.get(one, one) for one in given)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    purpose = (ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or "").splitlines()[0]
    day = datetime.now(UTC).date().isoformat()
    about = f"`{command}` · {day} · {machine()} · {time.perf_counter() - began:.0f} s"
    return ran.returncode, f"## {name}\n\n{purpose}\n\n{about}\n\n{ran.stdout.strip()}\n"


def known(file: Path) -> dict[str, str]:
    """Sections by name."""
    if not file.exists():
        return {}
    _, *parts = f"\n{file.read_text(encoding='utf-8')}".split("\n## ")
    return {part.partition("\n")[0]: f"## {part.strip()}\n" for part in parts}


def machine() -> str:
    """Cores, and what one of them multiplies in a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    square = torch.randn(1024, 1024)
    square @ square
    began = time.perf_counter()
    for _ in range(4):
        square @ square
    speed = 4 * 2 * 1024**3 / (time.perf_counter() - began) / 1e9
    torch.set_num_threads(threads)
    return f"{os.cpu_count()} cores ({platform.machine()}), {speed:.0f} GFLOP/s each in float32"


if __name__ == "__main__":
    sys.exit(main())
