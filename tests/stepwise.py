"""A command whose run forks right after every call that changes the file system. Each fork sends itself a signal, and
what it leaves is looked at. Then the files are put back, and the run goes on to its next call.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import gc
import io
import json
import multiprocessing.connection
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewinding import Forking, Snapshot

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CALLS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "chmod", "open")
_TOKEN = re.compile(r"\.[0-9a-f]{8}\.(partial|old)(?=/|$)")


@dataclass(frozen=True)
class Case:
    """arguments: of the command, which reads and writes below `place`, a copy of the folder `before`.

    every: of the steps, each n-th and those that rename; signals: one after the other, or all at each step.
    renameat2: whether the system is to have it. again: what the command itself writes lies there before.
    """

    arguments: list[str]
    before: Path
    place: Path
    every: int = 1
    in_turn: bool = False
    renameat2: bool = True
    again: bool = False

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def states(self) -> Path:
        """A folder for what signals left."""
        return self.place.with_name("states")


class Counter:
    """Wraps what changes the file system below `place`. on_step: called after each such call, with its number."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self.steps: list[str] = []
        self.paused = False
        self.on_step: Callable[[int], None] | None = None

    def install(self) -> None:
        from lowrise.files import exchange

        for name in _CALLS:
            setattr(os, name, self._wrapped(getattr(os, name), name))
        io.open = builtins.open = self._wrapped(io.open, "write")  # type: ignore[assignment]
        fcntl.flock = self._wrapped(fcntl.flock, "flock")
        exchange.rename = self._wrapped(exchange.rename, "renameat2")

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stepping(*arguments: Any, **options: Any) -> Any:
            found = call(*arguments, **options)
            if not self.paused and self._counts(name, arguments, options):
                about = "" if name == "flock" else Path(str(arguments[0])).name
                self.steps.append(f"{name} {about}")
                if self.on_step is not None:
                    self.on_step(len(self.steps) - 1)
            return found

        return stepping

    def _counts(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        path = arguments[0]
        if name == "flock":
            return True
        if name == "write":
            mode = arguments[1] if len(arguments) > 1 else options.get("mode", "r")
            if not isinstance(path, str | os.PathLike) or not set(mode) & set("wax+"):
                return False
        if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
            return False
        return options.get("dir_fd") is not None or os.fspath(path).startswith(self.place)


def drive(case: Case, answer: multiprocessing.connection.Connection) -> None:
    """In a process of its own: how many steps there are, and in lines what is wrong after a signal at each."""
    answer.send(_signal_at_each_step(case))


def _signal_at_each_step(case: Case) -> tuple[int, list[str]]:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    _quicken(case)
    _reset(case)
    _run(case, None)  # imports what is imported late
    if case.again:
        shutil.copytree(case.place, case.before, dirs_exist_ok=True)
    gc.collect()
    gc.freeze()
    _reset(case)
    old = contents(case.out)
    status, steps, _ = _in_a_fork(case, None)
    new = contents(case.out)
    wrong = [] if status == 0 else [f"without a signal: exit {status}"]
    _reset(case)
    case.states.mkdir()
    trying = Trying(case, steps, old, new)
    status, again, found = _in_a_fork(case, trying)
    wrong += found
    if status != 0 or [_named(step) for step in again] != [_named(step) for step in steps]:
        wrong.append(f"between the signals: exit {status}, {len(again)} steps, not {len(steps)}")
    for state in sorted(case.states.iterdir(), key=lambda path: int(path.name)):
        _reset(case, state / "place")
        wrong += [f"{(state / 'when').read_text()}: then {line}" for line in _next_run(case, old, new)]
    return len(steps), wrong


class Trying:
    """What is done at the chosen steps of a run: for every signal a fork that sends it to itself, and is looked at.

    Afterwards the run goes on as if nothing had been. wrong: in lines. Each new state of the files is copied to
    `case.states`, for a next run.
    """

    def __init__(self, case: Case, steps: list[str], old: dict[str, bytes], new: dict[str, bytes]) -> None:
        renaming = {at for at, step in enumerate(steps) if step.startswith(("rename", "replace"))}
        self._chosen = sorted(renaming | set(range(0, len(steps), case.every)))
        self._case, self._old, self._new = case, old, new
        self._known: set[frozenset[str]] = set()
        self.wrong: list[str] = []
        self.counter: Counter | None = None

    def begin(self, counter: Counter) -> None:
        self.counter, counter.on_step = counter, self._at

    def _at(self, step: int) -> None:
        assert self.counter is not None
        if step not in self._chosen:
            return
        self.counter.paused = True
        before = Snapshot(self._case.place, self._case.place.with_name("spare"))
        turn = self._chosen.index(step)
        for number in [SIGNALS[turn % 4]] if self._case.in_turn else SIGNALS:
            forking = Forking(self._case.place)
            child = forking.fork()
            if child == 0:
                self.counter.on_step = None
                os.kill(os.getpid(), number)
                return
            _, ended = os.waitpid(child, 0)
            when = f"{signal.Signals(number).name} after step {step}, {self.counter.steps[-1]}"
            try:
                found = self._look(number, os.waitstatus_to_exitcode(ended), when)
            except Exception as error:  # noqa: BLE001 - it would be raised in the midst of the command
                found = [f"{type(error).__name__}: {error}"]
            self.wrong += [f"{when}: {line}" for line in found]
            before.put_back()
            forking.ended()
        self.counter.paused = False

    def _look(self, number: int, status: int, when: str) -> list[str]:
        case = self._case
        expected = -number if number == signal.SIGKILL else 128 + number
        found = [] if status == expected else [f"exit {status}, not {expected}"]
        found += not_whole(case, self._old, self._new)
        left = unfinished(case)
        if number != signal.SIGKILL and left:
            found.append(f"left {left}")
        state = frozenset(map(_named, contents(case.place)))
        if state not in self._known:
            kept = case.states / str(len(self._known))
            shutil.copytree(case.place, kept / "place")
            (kept / "when").write_text(when)
            self._known.add(state)
        return found


def _named(name: str) -> str:
    """Without what is drawn by lot in it."""
    return _TOKEN.sub(r".\1", name)


def _next_run(case: Case, old: dict[str, bytes], new: dict[str, bytes]) -> list[str]:
    """What is wrong with the same command after it; with --force if it had come to its end."""
    if case.arguments[0] in ("run", "apply") and case.out.exists():
        case = replace(case, arguments=[*case.arguments, "--force"])
    status, _, _ = _in_a_fork(case, None)
    found = [] if status == 0 else [f"exit {status}"]
    if set(contents(case.out)) != set(new):
        found.append(f"other files: {set(contents(case.out)) ^ set(new)}")
    found += not_whole(case, old, new)
    kept = [path.name for path in case.place.rglob(".*.work")]  # what the same command went on with
    return [*found, *(f"left {name}" for name in [*unfinished(case), *kept])]


def not_whole(case: Case, old: dict[str, bytes], new: dict[str, bytes]) -> list[str]:
    """What is wrong with the output, which must be the old one or the new one."""
    if case.arguments[0] == "compare":
        return _comparison_not_whole(case.out)
    found = contents(case.out)
    if not found and not case.renameat2 and old:
        [kept] = case.place.glob(".out.*.old")
        found = contents(kept)
    if case.arguments[0] == "report":
        return [name for name in {*old, *new, *found} if not _TOKEN.search(name)
                and found.get(name) not in (old.get(name), new.get(name))]  # fmt: skip
    weights = "model.safetensors"
    if found == old or (set(found) == set(new) and found[weights] == new[weights]):
        return []
    return [f"the output is neither old nor new: {sorted(found)}"]


def _comparison_not_whole(out: Path) -> list[str]:
    """Each file of state reads, and no row is done without its results."""
    from lowrise.compare.folder import ASKED, PREPARED, read_question
    from lowrise.files.sealed import is_damaged, read_state

    if not out.exists():
        return []
    wrong = [] if read_question(out / ASKED) else ["no question"]
    wrong += [] if read_state(out / PREPARED) else ["not prepared"]
    for file in [out / "dense/dense.json", *out.glob("rows/*/row.json")]:
        if is_damaged(file):
            wrong.append(f"{file} is damaged")
    for state in map(read_state, out.glob("rows/*/row.json")):
        if state is None or state["status"] != "done" or not state["results"]["perplexity"]:
            wrong.append(f"a row is {state}")
    return wrong


def contents(folder: Path) -> dict[str, bytes]:
    """Files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(case: Case) -> list[str]:
    """What no run that ended in order leaves."""
    pattern = re.compile(r"(\.partial|\.old|\.lock|\.finished|asked\.json)$")
    return sorted(str(path.relative_to(case.place)) for path in case.place.rglob("*") if pattern.search(path.name))


def _reset(case: Case, to: Path | None = None) -> None:
    shutil.rmtree(case.place, ignore_errors=True)
    shutil.copytree(to or case.before, case.place)


def _in_a_fork(case: Case, trying: Trying | None) -> tuple[int, list[str], list[str]]:
    """(exit status of the command, or minus the signal that killed it; its steps; what was wrong when trying)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        own, counter = os.getpid(), Counter(case.place)
        counter.install()
        if trying is not None:
            trying.begin(counter)
            shutil._use_fd_functions = False  # type: ignore[attr-defined]  # folders that are put back are others
        status = 70  # what no command ends with: a traceback
        try:
            status = _run(case, counter)
        finally:
            if os.getpid() == own:
                told = [counter.steps, [] if trying is None else trying.wrong]
                os.write(write, json.dumps(told).encode())
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read()
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), *(json.loads(said) if said else ([], []))


def _run(case: Case, counter: Counter | None) -> int:
    from lowrise import cli

    sys.argv = ["lowrise", *case.arguments]
    COUNTERS[:] = [counter] if counter is not None else []
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("main ends in SystemExit")


COUNTERS: list[Counter] = []


def _absent(_path: Path, target: Path, _flags: int) -> None:
    raise OSError(errno.ENOSYS, "not there", str(target))


def _quicken(case: Case) -> None:
    """Streams that are nobody's; of what is only computed, less."""
    from lowrise import cli
    from lowrise.files import exchange

    cli.keep_streams = lambda: None
    os.environ["LOWRISE_CACHE"] = str(case.place / "cache")
    if not case.renameat2:
        exchange.rename = _absent
    if case.arguments[0] == "report":
        return
    from lowrise.measure import greedy_text, samples

    samples.NEW_TOKENS = greedy_text.NEW_TOKENS = 1
    if case.arguments[0] == "compare":
        from lowrise import compare
        from lowrise.compare import steps

        compare.draw_comparison = lambda *_: []  # type: ignore[attr-defined]
        compare.comparison_page = lambda *_: ""  # type: ignore[attr-defined]
        steps.run_step = _step


def _step(arguments: list[str], log: Path, _title: str, _report: object, _heard: object = None) -> Any:
    """In this process, so that it dies with the comparison, as for a user. A row is a `run`: not counted again here."""
    from lowrise import cli
    from lowrise.compare.child import StepResult

    before, sys.argv = sys.argv, ["lowrise", *arguments]
    for counter in COUNTERS:
        counter.paused = arguments[0] == "run"
    log.write_text("")
    try:
        cli.main()
    except SystemExit as ended:
        if int(ended.code or 0) > 128:
            raise
        return StepResult(int(ended.code or 0), log, 1.0)
    finally:
        sys.argv = before
        for counter in COUNTERS:
            counter.paused = False
    raise AssertionError("main ends in SystemExit")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = _signal_at_each_step(Case(**{**given, "before": Path(given["before"]), "place": Path(given["place"])}))
    os.write(1, f"\n{json.dumps(found)}\n".encode())
