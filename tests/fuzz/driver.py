"""Many damaged inputs through the command line's own entry point, in one forked process under watch.

`PYTHONPATH=src:tests python -m fuzz.driver KIND SEED` shows what one input does.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm  # noqa: F401 - its fork server has made the imports
from fuzz.sound import little_text

SECONDS = 10.0  # of computing that one input may take
PATIENCE = 60.0  # seconds by the clock, on a machine that does other things too
MEMORY = 1 << 30  # bytes that one input may add
LONGEST = 500  # characters of an error line
_FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Outcome:
    """status: the exit status; fault: what must not be, or None."""

    seed: int
    status: int | None
    fault: str | None


def outcomes(kind: str, seeds: range, base: Path, work: Path) -> list[Outcome]:
    """What became of every seed of one kind. base: sound inputs (`sound.make`); work: an empty folder."""
    log = work / "log.jsonl"
    log.touch()
    process = _FORKS.Process(target=_all, args=(kind, list(seeds), base, work, log), daemon=True)
    process.start()
    size, since = 0, time.monotonic() + PATIENCE  # the fork server may have imports to make
    while process.is_alive():
        process.join(0.05)
        if (now := log.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            process.kill()
            process.join()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ended = [Outcome(**line) for line in lines if "begun" not in line]
    begun = [line["begun"] for line in lines if "begun" in line]
    if len(ended) < len(seeds):
        lost = begun[-1] if begun else seeds[0]
        said = (work / "stderr").read_text(errors="replace")[-3000:]
        ended.append(Outcome(lost, None, f"hung or killed: exit status {process.exitcode}\n{said}"))
    return ended


def _all(kind: str, seeds: list[int], base: Path, work: Path, log: Path) -> None:
    from lowrise import cli

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    cli.signal.signal = lambda *_: None  # type: ignore[attr-defined,assignment]
    said = os.open(work / "stderr", os.O_RDWR | os.O_CREAT)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_AS, (_virtual() + 4 * MEMORY,) * 2)  # for the machine's sake
    with log.open("a", buffering=1) as told, little_text():
        for seed in seeds:
            told.write(json.dumps({"begun": seed}) + "\n")
            told.write(json.dumps(_one(kind, seed, base, work / "box", said).__dict__) + "\n")
            if seed == seeds[0]:  # what was imported for it is never garbage, and every run looks for some
                gc.collect()
                gc.freeze()


def _one(kind: str, seed: int, base: Path, box: Path, said: int) -> Outcome:
    from fuzz.kinds import KINDS
    from fuzz.mutations import Mutator
    from lowrise import cli

    shutil.rmtree(box, ignore_errors=True)
    for name in ("in", "tmp", "place", "home", "elsewhere"):
        (box / name).mkdir(parents=True)
    os.environ |= {"TMPDIR": str(box / "tmp"), "HOME": str(box / "home"), "LOWRISE_CACHE": str(box / "cache")}
    tempfile.tempdir = None
    os.chdir(box / "home")
    case = KINDS[kind](Mutator(f"{kind} {seed}"), base, box)
    before, empty = _contents(box, case.writes), not any((box / "place").iterdir())
    os.truncate(said, 0)
    os.lseek(said, 0, os.SEEK_SET)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.argv = ["lowrise", *map(str, case.arguments)]
    status, fault = None, None
    began = time.process_time()
    faulthandler.dump_traceback_later(PATIENCE - 1, file=said)
    try:
        with case.around:
            cli.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - whatever comes is what is looked for
        fault = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
    faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - began
    os.lseek(said, 0, os.SEEK_SET)
    text = os.read(said, 1 << 20).decode("utf-8", "surrogateescape")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    if fault is None:
        fault = _fault(status, text, case.statuses, grown, seconds)
    if fault is None and _contents(box, case.writes) != before:
        changed = set(_contents(box, case.writes).items()) ^ set(before.items())
        fault = f"written outside the output: {sorted(name for name, _ in changed)[:5]}"
    if fault is None and status == 2 and empty and any((box / "place").iterdir()):
        fault = f"left at the output: {[path.name for path in (box / 'place').iterdir()][:5]}"
    return Outcome(seed, status, None if fault is None else f"{fault}\n  {sys.argv[1:]}\n  {text[-600:]!r}")


def _fault(status: int | None, text: str, statuses: tuple[int, ...], grown: int, seconds: float) -> str | None:
    lines = [line for line in text.split("\n") if line]
    errors = [line for line in lines if line.startswith("lowrise:")]
    if status not in statuses:
        return f"exit status {status}"
    if "Traceback" in text:
        return "a traceback"
    if status == 2 and (len(errors) != 1 or any(not line.startswith(("lowrise:", "warning:")) for line in lines)):
        return "not one line"
    if any(len(line) > LONGEST or not line.isprintable() for line in errors):
        return f"a line of {max(map(len, errors))} characters, or not printable"
    if grown > MEMORY:
        return f"{grown:,} bytes more memory"
    return f"{seconds:.1f} s" if seconds > SECONDS else None


def _contents(box: Path, but: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
    """Everything in the sandbox but what the command may write."""
    found = {}
    for folder, names, files in os.walk(box):
        place = Path(folder).relative_to(box)
        names[:] = [name for name in names if str(place / name) not in but]
        for name in [*names, *(name for name in files if str(place / name) not in but)]:
            status = (Path(folder) / name).lstat()
            changed = 0 if name in names else status.st_mtime_ns
            found[str(place / name)] = (status.st_mode, 0 if name in names else status.st_size, changed)
    return found


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    from fuzz import sound

    kind, seed = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as place:
        base, work = Path(place, "base"), Path(place, "work")
        work.mkdir()
        sound.make(base)
        told: Any = outcomes(kind, range(seed, seed + 1), base, work)[-1]
        print(told.status, told.fault, (work / "stderr").read_text(errors="replace"))  # noqa: T201


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    main()
