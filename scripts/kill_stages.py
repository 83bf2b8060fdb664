"""Kill `lowrise run` by SIGKILL at every stage, start the same command again, and compare what comes of it.

python scripts/kill_stages.py [--model DIR] [--preset refit] [--remove 6] [--samples 8] [--length 128] [--folder DIR]
    [--more "--search-budget 0.1"] [--only training]

The model is the demo model, fetched if it is not there. First one run is left alone; then, for every kind of record
that its work folder held, another is killed as soon as that record appears, and started again. A record that is kept
again and again, as the state of a training is, is a kind of its own at the 2nd, 4th, 8th, … time. Exit 0: all the same.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from fetch_demo_model import fetch

ROOT = Path(__file__).resolve().parent.parent
_GLANCE = 0.01
_FORKS = multiprocessing.get_context("forkserver")  # of a process that has made the imports, which take longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the demo model")
    parser.add_argument("--folder", type=Path, help="where outputs go; default: a temporary folder")
    for name, value in {"preset": "refit", "remove": "6", "samples": "8", "length": "128"}.items():
        parser.add_argument(f"--{name}", default=value, help=f"default: {value}")
    parser.add_argument("--only", default="", help="kinds of records whose name holds this")
    parser.add_argument("--more", default="", help="options of `lowrise run`, beside these")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="lowrise-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["LOWRISE_CACHE"] = str(folder / "cache")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _FORKS.set_forkserver_preload(["lowrise.pipeline"])
    command = ["run", asked.model or str(fetch()), "--text", str(ROOT / "README.md"), "--windows", "1", "--quiet"]
    for name in ("preset", "remove", "samples", "length"):
        command += [f"--{name}", getattr(asked, name)]
    command += shlex.split(asked.more)
    whole = folder / "whole"
    kinds = watched(command, whole, None)
    expected, wrong = hashes(whole), 0
    print(f"not killed: {expected}; records: {', '.join(kinds)}", flush=True)
    for kind in [kind for kind in kinds if asked.only in kind]:
        out = folder / f"killed-{kind}"
        watched(command, out, kind)
        killed = not out.exists()
        status = ended(started(command, out)) if killed else 0
        same = status == 0 and hashes(out) == expected
        left = sorted(path.name for path in folder.glob(f".{out.name}.*"))
        wrong += not same or bool(left)
        when = f"killed at {kind}" if killed else f"ended before it could be killed at {kind}"
        print(f"{when}: {'the same' if same else 'OTHERS'}{f', left {left}' if left else ''}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
    return 1 if wrong else 0


def watched(command: list[str], out: Path, kind: str | None) -> list[str]:
    """Run it, and kill it once a record of that kind appears. The kinds of records that were seen."""
    process = started(command, out)
    seen: dict[str, None] = {}
    kept: dict[str, set[int]] = {}
    while process.is_alive():
        for record in sorted(out.parent.glob(f".{out.name}.*.work/*.json")):
            if not record.name.startswith(".") and (when := kept_at(record)) is not None:
                times = kept.setdefault(record.name, set())
                times.add(when)
                if len(times).bit_count() == 1:
                    seen[kind_of(record) + (f"-{len(times)}" if len(times) > 1 else "")] = None
        if kind in seen:
            process.kill()
            break
        process.join(_GLANCE)
    status = ended(process)
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the run for {out} ended with exit status {status}")
    return [*seen]


def started(command: list[str], out: Path) -> ForkServerProcess:
    """The run, in a process of its own."""
    process = _FORKS.Process(target=_run, args=([*command, "--out", str(out)],))
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    """Its exit status, or minus the signal that killed it."""
    process.join()
    return process.exitcode


def _run(command: list[str]) -> None:
    from lowrise import cli

    gc.freeze()
    sys.argv = ["lowrise", *command]
    cli.main()


def kind_of(record: Path) -> str:
    """Records of the same kind have numbers in their names: of steps every fourth is told apart, of layers too."""
    name = record.name.removesuffix(".json")
    return re.sub(r"\d+$", lambda number: str(int(number[0]) // 4 * 4), name)


def kept_at(record: Path) -> int | None:
    """None where it has just gone."""
    try:
        return record.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def hashes(out: Path) -> dict[str, str]:
    """sha256 of the plan and of the weights."""
    files = {"plan": [out / "lowrise" / "plan.json"], "weights": sorted(out.glob("*.safetensors"))}
    return {
        name: hashlib.sha256(b"".join(file.read_bytes() for file in of)).hexdigest()[:16] for name, of in files.items()
    }


if __name__ == "__main__":
    sys.exit(main())
