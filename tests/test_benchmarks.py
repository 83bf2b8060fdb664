"""Every benchmark and script: `--help` does nothing else, and each runs, here on a tiny model."""

from __future__ import annotations

import re
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
    "bench": (["laco", "--out", "OUT", "--more", "--model MODEL --text TEXT --threshold 0.1"], "written: "),
    "greedy": ([*SIZES, "--remove", "2"], "| naive / ours |"),
    "heal": (["--model", "MODEL", "--text", "TEXT", "--start", "2", "--stop", "4", "--windows", "2", "--length", "32",
              "--rounds", "1"], "| plain |"),
    "laco": (["--model", "MODEL", "--text", "TEXT", "--threshold", "0.1"], "| naive / ours |"),
    "memory": ([*SIZES, "--text", "TEXT", "--presets", "refit", "--remove", "2"], "| bound |"),
    "observe": ([*SIZES, "--span", "2"], "| store all states |"),
    "repair": ([*SIZES, "--start", "2", "--stop", "4"], "| naive / ours |"),
    "run": (["--model", "MODEL", "--text", "TEXT", "--eval-text", "TEXT", "--preset", "refit-span", "--remove", "2",
             "--samples", "8", "--length", "32", "--windows", "2", "--more", "--search-budget 1"], "| **all** |"),
    "streamline": ([*SIZES, "--eval-text", "TEXT", "--remove", "2", "--windows", "2", "--networks", "none,layer"],
                   "dense: "),
    "streaming": (["--tokenizer", "MODEL", "--folder", "OUT", "--layers", "3", "--hidden", "64", "--neurons", "96",
                   "--samples", "8", "--length", "32", "--remove", "1", "--memory", "4GB", "--only",
                   "plan, streamline"],
                  "| equal |"),
    "threads": ([*SIZES, "--rounds", "1"], "| one thread, beside a busy process |"),
    "tokens_per_input": (["--model", "MODEL", "--text", "TEXT", "--eval-text", "TEXT", "--gone", "2-3", "--samples",
                          "8", "--length", "32", "--windows", "2"], "lead"),
    "train_small": (["gemma3", "--text", "TEXT", "--out", "OUT", "--layers", "4", "--width", "64", "--tokens", "8192",
                     "--vocabulary", "300", "--presets", "streamline-none", "--remove", "1"], "| 4 → 3 |"),
    "which_layers": (["--model", "MODEL", "--text", "TEXT", "--sizes", "2", "--samples", "8", "--length", "32"],
                     "angular,2,"),
    "writing": (SIZES, "ratio"),
    "keeping": ([*SIZES, "--remove", "2", "--preset", "replaceme"], "| kept |"),
    "record_bytes": (["OUT", "--only", "llama tail"], "0 differ"),
    "kill_stages": (["--model", "MODEL", "--folder", "OUT", "--preset", "replaceme", "--remove", "2", "--samples", "8",
                     "--length", "24"], "not killed: "),
    "engines": (["MODEL", "--engines", "transformers", "--tokens", "4"], "| 40 of 40 | 0.0000 |"),
    "families": (["llama", "--columns", "streamline-none"], "llama: works"),
    "engine_facts": (["--check"], "holds the facts"),
    "estimate": (["--models", "MODEL", "--preset", "streamline-none", "--remove", "2", "--samples", "8", "--length",
                  "32", "--windows", "2", "--text", "TEXT"], "| peak memory |"),
    "estimates": (["--check"], "docs/estimates.md is as the code is"),
    "reference": (["--check"], "pages are as the code is"),
    "saying": ([sys.executable, "-c", "print('waited')"], "waited"),
    "results": (["--check"], "every number is as docs/data has it"),
    "demo": ([*SIZES, "--folder", "OUT", "--remove", "2", "--windows", "2"], "written to "),
}  # fmt: skip
# those that start no process of their own; the others are slow
INSIDE = {
    "calibration",
    "engine_facts",
    "estimates",
    "families",
    "greedy",
    "reference",
    "results",
    "train_small",
    "which_layers",
    "writing",
}
# of the slow ones, those for which it may be a fork, which has no imports to make
FORKED = {"bench", "heal", "laco", "observe", "repair", "streamline"}


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
        mine = {"common", "documentation", "fetch_demo_model", "saying", "transformers4"}
        for name in mine & (set(sys.modules) - before):
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
    """But for those that download, that look, that `make dist` or tests/test_notebook.py runs."""
    elsewhere = {
        "fetch_demo_model",
        "fetch_gemma_model",
        "transformers4",
        "versions",
        "llama_cpp",
        "notebook",
        "dist",
        "screenshots",
    }
    assert {program.stem for program in PROGRAMS} == {*RUNS, *elsewhere}


def test_each_benchmark_has_a_place_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench = runpy.run_path(str(ROOT / "scripts" / "bench.py"))
    assert {*bench["MINUTES"], *bench["HOURS"]} == {one.stem for one in PROGRAMS if one.parent.name == "benchmarks"}


def given(arguments: list[str], model: Path, text: Path, out: Path) -> list[str]:
    filled = {"MODEL": str(model), "TEXT": str(text), "OUT": str(out)}
    return [" ".join(filled.get(word, word) for word in argument.split(" ")) for argument in arguments]


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
    if name in FORKED:
        done = run_program(command, timeout=250)
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert (done.returncode, expected in done.stdout) == (0, True), done.stderr[-2000:]


def test_a_silent_command_is_waited_for_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit status is handed on."""
    wait = runpy.run_path(str(ROOT / "scripts" / "saying.py"))["wait"]
    command = [sys.executable, "-c", "import sys, time; time.sleep(0.5); sys.exit(3)"]
    assert wait(command, every=0.1) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(re.fullmatch(r"\S+ -c: \d+ s", line) for line in lines)
