"""SIGKILL, TERM, INT and HUP at every step of writing: the old or the new output is whole, the next run tidies up.

In the usual suite a few steps, those that rename among them, with one signal each; in the slow one all.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import stepwise
import tiny
from stepwise import Case
from warm import _FORKS

Tried = Callable[..., int]
_MODEL = ["--length", "16", "--device", "cpu", "--quiet"]
_RECIPE = ["--samples", "4", "--remove", "1"]
_THOROUGH = pytest.param({"every": 1}, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3000)])
_BRIEF = pytest.param({"every": 30, "in_turn": True}, id="some")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a text, which no run changes."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.save(folder / "model", num_hidden_layers=3)
    (folder / "text").write_text(tiny.text(300), encoding="utf-8")
    return folder


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """What lies in the output's place, and beside it, before the command."""
    folder = tmp_path / "before"
    folder.mkdir()
    return folder


@pytest.fixture
def command(inputs: Path, before: Path) -> Callable[[str], list[str]]:
    def arguments(name: str) -> list[str]:
        model, text = str(inputs / "model"), ["--text", str(inputs / "text")]
        if name == "apply":
            return ["apply", model, str(before.parent / "place" / "plan.json"), "--device", "cpu", "--quiet"]
        chosen = ["--presets" if name == "compare" else "--preset", "tail", *_RECIPE]
        return [name, model, *chosen, *_MODEL, *text]

    return arguments


@pytest.fixture
def old(main: Callable[..., tuple[int, str, str]], before: Path, command: Callable[[str], list[str]]) -> Path:
    """An output of `run` that is there already, with a file by which it is known."""
    assert main(*command("run"), "--out", before / "out")[0] == 0
    (before / "out" / "old.txt").write_text("old")
    (before / "out" / "README.md").write_text("old")
    (before / "plan.json").write_text((before / "out" / "lowrise" / "plan.json").read_text())
    return before


@pytest.fixture
def tried(tmp_path: Path, before: Path) -> Tried:
    """Try a command at its steps; nothing may be wrong. The number of its steps."""

    def try_steps(arguments: list[str], **options: object) -> int:
        place = tmp_path / "place"
        case = Case([*arguments, "--out", str(place / "out")], before, place, **options)  # type: ignore[arg-type]
        here, there = multiprocessing.Pipe()
        process = _FORKS.Process(target=stepwise.drive, args=(case, there))
        process.start()
        there.close()
        steps, wrong = here.recv()
        process.join()
        assert not wrong, "\n".join(wrong)
        return int(steps)

    return try_steps


@pytest.mark.parametrize("options", [_BRIEF, _THOROUGH])
def test_run(tried: Tried, command: Callable[[str], list[str]], options: dict[str, object]) -> None:
    assert tried(command("run"), **options) > 30


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("renameat2", [True, False], ids=["exchange", "no exchange"])
@pytest.mark.parametrize("options", [_BRIEF, _THOROUGH])
def test_run_with_force(
    tried: Tried, command: Callable[[str], list[str]], options: dict[str, object], renameat2: bool
) -> None:
    assert tried([*command("run"), "--force"], renameat2=renameat2, **options) > 40


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("force", [True, False], ids=["force", "new"])
@pytest.mark.parametrize("options", [_BRIEF, _THOROUGH])
def test_apply(
    tried: Tried, command: Callable[[str], list[str]], before: Path, options: dict[str, object], force: bool
) -> None:
    if not force:
        (before / "out").rename(before.parent / "elsewhere")
    assert tried([*command("apply"), *(["--force"] if force else [])], **options) > 30


@pytest.mark.parametrize("options", [pytest.param({"every": 20, "in_turn": True}, id="some"), _THOROUGH])
def test_compare(tried: Tried, command: Callable[[str], list[str]], options: dict[str, object]) -> None:
    assert tried(command("compare"), **options) > 30


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_compare_with_force(tried: Tried, command: Callable[[str], list[str]]) -> None:
    assert tried([*command("compare"), "--force"], again=True) > 40


@pytest.mark.parametrize("options", [{"every": 1, "in_turn": True}, _THOROUGH])
def test_report(old: Path, tmp_path: Path, options: dict[str, object]) -> None:
    """In a process without torch, as a user has it, which must not be taken for one that is still importing."""
    (old / "out" / "old.txt").unlink()
    about = {
        "arguments": ["report", str(tmp_path / "place" / "out")],
        "before": str(old),
        "place": str(tmp_path / "place"),
    }
    given = json.dumps({**about, **options})
    ended = subprocess.run([sys.executable, stepwise.__file__, given], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    steps, wrong = json.loads(ended.stdout.splitlines()[-1])
    assert not wrong, "\n".join(wrong)
    assert steps > 8
