"""Every benchmark and script: `--help` does nothing else, and each runs, here on a tiny model."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from programs import run_program

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(
    file for folder in ("benchmarks", "scripts") for file in (ROOT / folder).glob("*.py") if file.name != "common.py"
)
# "MODEL", "TEXT" and "OUT" are filled in; each prints what is beside it
SIZES = ["--model", "MODEL", "--samples", "8", "--length", "32"]
RUNS = {
    "calibration": (["--model", "MODEL", "--text", "TEXT", "--eval-text", "TEXT", "--gone", "2,4", "--samples", "8",
                     "--length", "32", "--windows", "2", "--seeds", "0"], "| calibration |"),
    "greedy": ([*SIZES, "--remove", "2"], "| naive / ours |"),
    "heal": (["--model", "MODEL", "--text", "TEXT", "--start", "2", "--stop", "4", "--windows", "2", "--length", "32",
              "--rounds", "1"], "| plain |"),
    "laco": (["--model", "MODEL", "--text", "TEXT", "--threshold", "0.1"], "| naive / ours |"),
    "observe": ([*SIZES, "--span", "2"], "| store all states |"),
    "repair": ([*SIZES, "--start", "2", "--stop", "4"], "| naive / ours |"),
    "streamline": ([*SIZES, "--eval-text", "TEXT", "--remove", "2", "--windows", "2", "--networks", "none,layer"],
                   "dense: "),
    "threads": ([*SIZES, "--rounds", "1"], "| one thread, beside a busy process |"),
    "train_small": (["gemma3", "--text", "TEXT", "--out", "OUT", "--layers", "4", "--width", "64", "--tokens", "8192",
                     "--vocabulary", "300", "--presets", "streamline-none", "--remove", "1"], "| 4 → 3 |"),
    "writing": (SIZES, "ratio"),
    "keeping": ([*SIZES, "--remove", "2", "--preset", "replaceme"], "| kept |"),
    "record_bytes": (["OUT", "--only", "llama tail"], "0 differ"),
    "kill_stages": (["--model", "MODEL", "--folder", "OUT", "--preset", "replaceme", "--remove", "2", "--samples", "8",
                     "--length", "24"], "not killed: "),
    "engines": (["MODEL", "--engines", "transformers", "--tokens", "4"], "| 40 of 40 | 0.0000 |"),
    "families": (["llama", "--presets", "streamline-none"], "llama: works"),
    "engine_facts": (["--check"], "holds the facts"),
    "reference": (["--check"], "pages are as the code is"),
    "demo": ([*SIZES, "--folder", "OUT", "--remove", "2", "--windows", "2"], "written to "),
}  # fmt: skip
# those that start no process of their own; the others are slow
INSIDE = {"calibration", "engine_facts", "families", "greedy", "reference", "train_small", "writing"}


def run(monkeypatch: pytest.MonkeyPatch, program: Path, arguments: list[str]) -> int:
    """As `python PROGRAM ARGUMENTS`, in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [str(program), *arguments])
    monkeypatch.setattr(sys, "path", [str(program.parent), *sys.path])
    before = set(sys.modules)
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        for name in {"common", "documentation", "fetch_demo_model"} & (set(sys.modules) - before):
            del sys.modules[name]
    return 0


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_help_says_what_it_is_for_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Path
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("--help does something")

    for place in ("subprocess.run", "subprocess.check_output", "lowrise.model.source.open_model"):
        monkeypatch.setattr(place, nothing)
    assert run(monkeypatch, program, ["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ")
    purpose = program.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
    assert purpose[:40] in said


def test_each_is_run_here() -> None:
    """But for those that only download."""
    downloads = {"fetch_demo_model", "fetch_gemma_model", "transformers4", "llama_cpp"}
    assert {program.stem for program in PROGRAMS} == {*RUNS, *downloads}


def given(arguments: list[str], model: Path, text: Path, out: Path) -> list[str]:
    filled = {"MODEL": str(model), "TEXT": str(text), "OUT": str(out)}
    return [filled.get(word, word) for word in arguments]


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_it_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Path,
    text_file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    arguments, expected = RUNS[name]
    (program,) = (file for file in PROGRAMS if file.stem == name)
    assert run(monkeypatch, program, given(arguments, tiny_folder, text_file, tmp_path / "out")) == 0
    assert expected in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RUNS) - INSIDE))
def test_it_runs_with_the_processes_that_it_starts(
    tiny_folder: Path, text_file: Path, tmp_path: Path, name: str
) -> None:
    arguments, expected = RUNS[name]
    (program,) = (file for file in PROGRAMS if file.stem == name)
    command = [sys.executable, str(program), *given(arguments, tiny_folder, text_file, tmp_path / "out")]
    if name == "kill_stages":  # whose processes look for what it is called by
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    else:
        done = run_program(command, timeout=250)
    assert (done.returncode, expected in done.stdout) == (0, True), done.stderr[-2000:]
