"""Ctrl-C, termination and sudden death at any moment: the right exit status, no half folder, no cache left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tiny
from refusals import mark
from warm import Warm

# Restores what a background shell may have set to "ignored", which a child would inherit.
_START = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "signal.signal(signal.SIGTERM, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
_PATIENCE = 60.0  # seconds until a moment that does not come fails the test

WORK = re.compile(r"^new/\.out\.[0-9a-f]{8}\.work(/[a-z0-9.-]+\.(json|safetensors)|/repair-states-[01])?$")
"""What is kept for the same command."""

TRAINING = "replaced by"
"""What the command says when pairs are collected and the network is trained."""


class Running:
    """`lowrise run` in a process of its own on a tiny model, with more work than a test waits for.

    cold: with the imports that a user's command begins with.
    """

    process: subprocess.Popen[bytes] | Warm

    def __init__(self, folder: Path, model: Path, text: Path, *options: object, cold: bool) -> None:
        self.place, self.scratch = folder / "place", folder / "scratch"
        self.place.mkdir()
        self.scratch.mkdir()
        self._log = folder / "stderr"
        recipe = folder / "recipe.yaml"
        recipe.write_text("training: {epochs: 100000, batch_tokens: 64}\n", encoding="utf-8")
        always = [
            "--preset",
            "streamline",
            "--recipe",
            recipe,
            "--text",
            text,
            "--length",
            32,
            "--samples",
            16,
            "--remove",
            2,
            "--device",
            "cpu",
        ]
        command = ["run", model, *always, *options, "--out", self.place / "new" / "out"]
        environment = {"TMPDIR": str(self.scratch)}
        with self._log.open("wb") as log, Path(os.devnull).open("wb") as nowhere:
            if cold:
                start = [sys.executable, "-c", _START, Path(sys.executable).with_name("lowrise"), *command]
                self.process = subprocess.Popen(
                    [*map(str, start)], stdout=nowhere, stderr=log, env={**os.environ, **environment}
                )
            else:
                self.process = Warm(command, nowhere.fileno(), log.fileno(), environment)

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until(self, moment: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not moment():
            assert self.process.poll() is None, f"it ended too early: {self.said()}"
            assert time.monotonic() < end, f"the moment never came: {self.said()}"
            time.sleep(0.001)

    def until_it_trains(self) -> None:
        self.until(lambda: TRAINING in self.said())
        time.sleep(0.5)

    def until_it_writes(self, file: str = "*") -> None:
        """Until the unfinished folder is there, and a file in it."""
        self.until(lambda: any(self.place.glob(f"new/.*.partial/{file}")))

    def send(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=_PATIENCE)

    def assert_nothing_left(self) -> None:
        """But what the same command goes on with."""
        left = [path for path in self.place.rglob("*") if not WORK.search(str(path.relative_to(self.place)))]
        assert [path.name for path in left] in ([], ["new"])
        assert len(left) == len([*self.place.glob("new/.out.*.work")])
        assert not list(self.scratch.glob("lowrise-*"))


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path, text_file: Path) -> Iterator[Start]:
    """Start the command; whatever a failed test leaves running is killed."""
    running: list[Running] = []

    def begin(*options: object, cold: bool = False) -> Running:
        running.append(Running(tmp_path, tiny_folder, text_file, *options, cold=cold))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture(scope="session")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to be measured for a moment, which is done before the unfinished folder is renamed."""
    file = tmp_path_factory.mktemp("texts") / "long.txt"
    file.write_text(tiny.text(8_000), encoding="utf-8")
    return file


def assert_interrupted(status: int, said: str) -> None:
    assert "Traceback" not in said
    assert status == 130
    assert "lowrise: " not in said.replace("lowrise: interrupted", "")


@pytest.mark.parametrize("seconds", [0.5, 0.7, 1.0, 2.0, 3.5])
def test_ctrl_c_while_it_starts(start: Start, seconds: float) -> None:
    """While libraries are imported, the model is opened or observed, whichever it is by then."""
    running = start(cold=True)
    time.sleep(seconds)
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    running.assert_nothing_left()


@pytest.mark.parametrize("max_ram", ["0", "1G"], ids=["pairs on disk", "pairs in memory"])
def test_ctrl_c_while_it_trains(start: Start, max_ram: str) -> None:
    running = start("--max-ram", max_ram)
    running.until_it_trains()
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    running.assert_nothing_left()


@pytest.mark.parametrize("sign", ["chosen: layers", "ridge regressions refit"])
def test_ctrl_c_around_a_refit(start: Start, long_text: Path, sign: str) -> None:
    """Once the search is through, and once layers were changed in place: states lie in the store in between."""
    running = start("--preset", "refit", "--eval-text", long_text)
    running.until(lambda: sign in running.said())
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    running.assert_nothing_left()


def test_ctrl_c_is_answered_in_one_line(start: Start) -> None:
    running = start("--quiet", cold=True)
    time.sleep(2.0)
    running.send(signal.SIGINT)
    assert running.said() == "lowrise: interrupted\n"


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_ctrl_c_while_it_writes(start: Start, long_text: Path, file: str) -> None:
    """Once that file has appeared in the unfinished folder."""
    running = start("--preset", "streamline-none", "--eval-text", long_text)
    running.until_it_writes(file)
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    running.assert_nothing_left()


def test_ctrl_c_while_the_unfinished_folder_is_measured(start: Start, long_text: Path) -> None:
    """The checkpoint is whole but not yet proven and measured: it must go all the same."""
    running = start("--preset", "streamline-none", "--eval-text", long_text)
    running.until_it_writes("tokenizer_config.json")
    time.sleep(0.3)
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    running.assert_nothing_left()


def test_ctrl_c_twice_while_it_writes(start: Start, long_text: Path) -> None:
    """The impatient second one comes while the first is cleaning up."""
    running = start("--preset", "streamline-none", "--eval-text", long_text)
    running.until_it_writes("tokenizer_config.json")
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    status = running.send(signal.SIGINT)
    running.assert_nothing_left()
    assert_interrupted(status, running.said())


_DESTRUCTOR = """
import os, signal, sys, types
sys.modules["lowrise.pipeline"] = types.SimpleNamespace(measure=None)  # the libraries are there
from lowrise import cli

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

@cli.app.command()
def hold():
    try:
        Held()
        for _ in range(10**9):
            pass
    finally:
        print("cleaned up")

sys.argv = ["lowrise", "hold"]
cli.main()
"""


def test_ctrl_c_while_a_destructor_runs() -> None:
    """Python drops what is raised there, and the run would go on to its end."""
    ended = subprocess.run([sys.executable, "-c", _DESTRUCTOR], capture_output=True, text=True, timeout=_PATIENCE)
    assert_interrupted(ended.returncode, ended.stderr)
    assert ended.stdout == "cleaned up\n"


_CHANGED = """
import os, signal, sys, types
sys.modules["lowrise.pipeline"] = types.SimpleNamespace(measure=None)  # the libraries are there
from lowrise import cli
from lowrise.errors import OutputError

@cli.app.command()
def hold():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10**9):
            pass
    except SystemExit:
        raise MADE from None

sys.argv = ["lowrise", "hold"]
cli.main()
"""


@pytest.mark.parametrize("made", ["ValueError('no shape')", "OutputError('here', 'room', 'none', 'free space')"])
def test_a_library_that_makes_another_exception_of_it(made: str) -> None:
    """Compiled code does that, which asks a tensor for its shape while the signal comes."""
    script = _CHANGED.replace("MADE", made)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=_PATIENCE)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, "lowrise: interrupted\n")


def test_ctrl_c_with_force_leaves_the_old_folder(start: Start, long_text: Path) -> None:
    running = start("--preset", "streamline-none", "--eval-text", long_text, "--force")
    old = running.place / "new" / "out"
    old.mkdir(parents=True)
    (old / "precious.txt").write_text("precious", encoding="utf-8")
    mark(old)
    running.until_it_writes()
    status = running.send(signal.SIGINT)
    assert_interrupted(status, running.said())
    left = [path for path in old.parent.iterdir() if not WORK.search(f"new/{path.name}")]
    assert [path.name for path in left] == ["out"]
    assert sorted(path.name for path in old.iterdir()) == ["lowrise", "precious.txt"]


def test_termination_while_it_trains(start: Start) -> None:
    running = start("--max-ram", "0")
    running.until_it_trains()
    status = running.send(signal.SIGTERM)
    assert "Traceback" not in running.said()
    assert status == 143
    running.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_termination_while_it_writes(start: Start, long_text: Path, number: signal.Signals) -> None:
    """ComparisonRequest to end, or its terminal closed."""
    running = start("--preset", "streamline-none", "--eval-text", long_text)
    running.until_it_writes()
    status = running.send(number)
    assert "Traceback" not in running.said()
    assert status == 128 + number
    running.assert_nothing_left()


def test_sudden_death_while_it_trains_leaves_no_pairs(start: Start) -> None:
    """Nothing can clean up after SIGKILL, so the file of pairs must have no name by then."""
    running = start("--max-ram", "0")
    running.until_it_trains()
    assert "kept on disk" in running.said()
    assert running.send(signal.SIGKILL) == -signal.SIGKILL
    left = [path for path in running.place.rglob("*") if not WORK.search(str(path.relative_to(running.place)))]
    assert [path.name for path in left] == ["new", ".out.lock"]  # which the next run takes away
    assert not list(running.scratch.glob("lowrise-*"))
