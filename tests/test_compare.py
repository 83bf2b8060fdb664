"""`lowrise compare`: one table of presets and sizes, rows that fail, going on, and what is refused.

Steps are processes of their own. Most tests here run them inside this one, where torch is loaded; the last ones do not.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import pytest

import tiny
from lowrise import cli
from lowrise.compare import steps
from lowrise.compare.child import Ended
from lowrise.report.comparison_curves import draw_comparison
from lowrise.report.comparison_measures import measures
from lowrise.report.comparison_page import comparison_page
from refusals import assert_one_line, contents, edit_config

Main = Callable[..., tuple[int, str, str]]
Arguments = list[Any]
SMALL = ["--samples", 8, "--length", 32, "--windows", 2, "--device", "cpu", "--quiet"]


_TASK = """
task: tiny_words
custom_dataset: !function tiny_words.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_DATA = """
import datasets

def load(**_):
    rows = [{"context": "ab" * i, "choices": ["cd", "ef gh"], "answer": i % 2} for i in range(1, 9)]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
"""


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_words.yaml").write_text(_TASK)
    (folder / "tiny_words.py").write_text(_DATA)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were run, by their titles; they run inside this process, and nothing is drawn at the end."""
    titles: list[str] = []
    monkeypatch.setattr("lowrise.compare.draw_comparison", lambda *_: [])
    monkeypatch.setattr("lowrise.compare.comparison_page", lambda *_: "")

    def step(arguments: list[str], log: Path, title: str, _report: object) -> Ended:
        titles.append(title.rpartition(": ")[2])
        with log.open("w") as said, redirect_stdout(said), redirect_stderr(said), monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["lowrise", *arguments])
            try:
                cli.main()
            except SystemExit as ended:
                return Ended(int(ended.code or 0), log, 1.0)
        raise AssertionError("main ends in SystemExit")

    monkeypatch.setattr(steps, "run_step", step)
    return titles


@pytest.fixture
def asked(tiny_folder: Path, text_file: Path, tmp_path: Path) -> Arguments:
    """A sound command; options after it win."""
    texts = ["--text", text_file, "--eval-text", text_file]
    chosen = ["--presets", "streamline-none,laco-last", "--remove", "1,2"]
    return ["compare", tiny_folder, *chosen, *texts, *SMALL, "--out", tmp_path / "out"]


def row_states(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("rows/*/row.json"))}


def test_one_table_in_four_forms_and_pictures(main: Main, ran: list[str], asked: Arguments, tmp_path: Path) -> None:
    status, printed, errors = main(*asked)
    assert (status, errors) == (0, "")
    out, names = tmp_path / "out", ["streamline-none-1", "laco-last-1", "streamline-none-2", "laco-last-2"]
    assert ran == ["preparing", "the dense model", "streamline-none, 1 layer", "laco-last, 1 layer",
                   "streamline-none, 2 layers", "laco-last, 2 layers"]  # fmt: skip
    results = json.loads((out / "compare.json").read_text())
    assert [row["name"] for row in results["rows"]] == names
    states = row_states(out)
    for row in results["rows"]:
        theirs = states[row["name"]]["results"]
        assert row["layers"] == tiny.LAYERS - row["removed"] == theirs["layers"]
        assert row["perplexity_ratio"] == theirs["retained"]["perplexity_ratio"]
        # the dense model of every row is the one that was measured first
        assert theirs["dense"]["perplexity"] == results["dense"]["perplexity"]
        assert 0 < row["peak_bytes"] <= theirs["memory"]["peak_resident_bytes"]
        assert row["loads_plainly"]
        assert not (out / "rows" / row["name"] / "model").exists()
    by_kind = {name: states[name]["plan"]["calibration"]["sha256"] for name in names}
    assert by_kind["streamline-none-1"] == by_kind["streamline-none-2"] != by_kind["laco-last-1"]
    assert by_kind["laco-last-1"] == by_kind["laco-last-2"]
    lines = (out / "compare.md").read_text().splitlines()
    assert len(lines) == 2 + 1 + 4
    assert "| streamline-none | 1 of 6 |" in lines[3]
    with (out / "compare.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for line, row in zip(rows, results["rows"], strict=True):
        assert float(line["perplexity words.txt"]) == row["perplexity"]["words.txt"]
        assert int(line["parameters"]) == row["parameters"]
    assert "streamline-none" in printed
    assert draw_comparison(results, tmp_path) == ["depth.svg", "time.svg"]
    assert "laco-last" in comparison_page(results)


@pytest.mark.usefixtures("ran")
def test_the_peers_criteria_beside_each_other(main: Main, asked: Arguments, tmp_path: Path) -> None:
    """Those with a number of windows of their own keep it and share one file; taylor, which six layers are too few
    for, is a row with its reason."""
    names = ["block-influence", "angular", "greedy-perplexity", "taylor", "tail", "random"]
    status, _, errors = main(*asked, "--presets", ",".join(names), "--remove", "2", "--avoid-massive")
    assert (status, errors) == (0, "")
    states = row_states(tmp_path / "out")
    assert [states[f"{name}-2"]["status"] for name in names] == ["done"] * 3 + ["failed"] + ["done"] * 2
    assert "at most 0 layers" in states["taylor-2"]["reason"]
    samples = {name: states[f"{name}-2"]["plan"]["calibration"]["samples"] for name in names if name != "taylor"}
    assert samples == {"block-influence": 8, "angular": 8, "greedy-perplexity": 4, "tail": 4, "random": 4}
    files = sorted(file.name for file in (tmp_path / "out" / "calibration").iterdir())
    assert files == ["windows-10x32.safetensors", "windows-4x32.safetensors", "windows-8x32.safetensors"]
    results = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert draw_comparison(results, tmp_path) == ["depth.svg", "time.svg"]


@pytest.mark.usefixtures("ran")
def test_tasks_are_in_every_row_and_the_dense_model_answers_once(
    main: Main, asked: Arguments, task_dir: Path, tmp_path: Path
) -> None:
    status, _, errors = main(*asked, "--remove", "2", "--tasks", "tiny_words", "--task-dir", task_dir, "--limit", 6)
    assert (status, errors) == (0, "")
    out = tmp_path / "out"
    results = json.loads((out / "compare.json").read_text())
    dense = results["dense"]["tasks"]["tiny_words"]
    assert dense["n"] == 6
    for row, state in zip(results["rows"], map(row_states(out).get, ["streamline-none-2", "laco-last-2"]), strict=True):
        assert state["results"]["dense"]["tasks"]["tiny_words"] == dense
        # from the row's own results, by the definitions: one task, so its values are the means
        assert row["stability"] == state["results"]["stability"]["tiny_words"]
        if dense["acc"]:
            assert row["tasks"]["tiny_words"]["acc"] / dense["acc"] == pytest.approx(row["retained"]["ratio"])
        log = (out / "rows" / row["name"] / "log.txt").read_text()
        assert log.count("items, kept from before") == 1
    assert [one.id for one in measures(results)] == ["perplexity-0", "accuracy", "retained", "stability"]
    assert "tiny_words" in comparison_page(results)
    assert len((out / "compare.md").read_text().splitlines()) == 2 * (2 + 1 + 2) + 1


def test_rows_are_what_run_alone_gives(
    main: Main, ran: list[str], asked: Arguments, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """Stored tokens change nothing: the same calibration hash, the same edits, the same perplexity."""
    assert main(*asked, "--remove", "2", "--keep")[0] == 0
    assert len(ran) == 4
    for preset in ("streamline-none", "laco-last"):
        alone = tmp_path / preset
        own = SMALL if preset == "streamline-none" else SMALL[2:]
        texts = ["--text", text_file, "--eval-text", text_file]
        assert main("run", tiny_folder, "--preset", preset, "--remove", 2, *texts, *own, "--out", alone)[0] == 0
        kept = tmp_path / "out" / "rows" / f"{preset}-2" / "model"
        one, other = ((folder / "lowrise/plan.json").read_text() for folder in (alone, kept))
        assert one == other
        assert (alone / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()


def test_a_finished_comparison_runs_nothing_again_and_takes_more_rows(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path
) -> None:
    assert main(*asked, "--presets", "streamline-none", "--remove", "1")[0] == 0
    before = row_states(tmp_path / "out")
    ran.clear()
    assert main(*asked, "--presets", "streamline-none", "--remove", "1")[0] == 0
    assert ran == []
    assert main(*asked, "--presets", "streamline-none,laco-mean", "--remove", "1,2")[0] == 0
    assert ran == ["preparing", "laco-mean, 1 layer", "streamline-none, 2 layers", "laco-mean, 2 layers"]
    after = row_states(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_a_method_that_fails_is_a_row_with_its_reason(
    main: Main, ran: list[str], text_file: Path, tmp_path: Path
) -> None:
    """OPT has no gated MLP for the portable swiglu, and LaCo must leave layer 0 alone, so 5 of 6 is too much for it."""
    model = tiny.save(tmp_path / "opt", "opt")
    chosen = ["--presets", "streamline-none,streamline-swiglu,laco-last", "--form", "portable", "--remove", 5]
    texts = ["--text", text_file, "--eval-text", text_file]
    status, printed, errors = main("compare", model, *chosen, *texts, *SMALL, "--out", tmp_path / "out", "--json")
    assert (status, errors) == (0, "")
    rows = {row["preset"]: row for row in json.loads(printed)["rows"]}
    assert rows["streamline-none"]["status"] == "done"
    assert "gated" in rows["streamline-swiglu"]["reason"]
    assert "--remove: expected at most 4 layers" in rows["laco-last"]["reason"]
    table = (tmp_path / "out/compare.md").read_text()
    assert "failed: --remove: expected at most 4 layers" in table
    ran.clear()
    assert main("compare", model, *chosen, *texts, *SMALL, "--out", tmp_path / "out")[0] == 0
    assert ran == []


def test_a_row_that_was_killed_is_a_row_too_and_is_tried_again(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = steps.run_step

    def killed(arguments: list[str], log: Path, title: str, report: Any) -> Ended:
        if "laco" not in title:
            return sound(arguments, log, title, report)
        log.write_text("half a line")
        return Ended(-signal.SIGKILL, log, 1.0)

    monkeypatch.setattr(steps, "run_step", killed)
    assert main(*asked, "--remove", "2")[0] == 0
    reason = "killed by SIGKILL, as the system does when memory runs out"
    assert row_states(tmp_path / "out")["laco-last-2"]["reason"] == reason
    monkeypatch.setattr(steps, "run_step", sound)
    ran.clear()
    assert main(*asked, "--remove", "2")[0] == 0
    assert ran == ["preparing", "laco-last, 2 layers"]
    assert row_states(tmp_path / "out")["laco-last-2"]["status"] == "done"


def test_a_whole_output_is_not_made_twice(main: Main, ran: list[str], asked: Arguments, tmp_path: Path) -> None:
    """The comparison died after the run had ended and before it could note so."""
    assert main(*asked, "--remove", "2", "--keep")[0] == 0
    note = tmp_path / "out/rows/laco-last-2/row.json"
    before = json.loads(note.read_text())
    note.unlink()
    ran.clear()
    assert main(*asked, "--remove", "2")[0] == 0
    assert ran == ["preparing"]
    assert json.loads(note.read_text())["results"] == before["results"]


def test_all_rows_failed_is_exit_1(main: Main, ran: list[str], asked: Arguments) -> None:
    status, _, errors = main(*asked, "--presets", "laco,laco-last", "--remove", "5")
    assert status == 1
    assert "all rows failed" in errors
    assert len(errors.splitlines()) == 1
    assert len(ran) == 4


def test_the_model_writes_its_own_text_once(main: Main, ran: list[str], tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--presets", "streamline-none", "--remove", "1,2", "--samples", 4, "--length", 16, "--device", "cpu"]
    assert main("compare", tiny_folder, *chosen, "--quiet", "--out", out)[0] == 0
    assert len(ran) == 4
    saying = [file.relative_to(out).as_posix() for file in out.rglob("*.txt") if "writes its own" in file.read_text()]
    assert saying == ["prepare.txt"]
    records = [state["plan"]["calibration"] for state in row_states(out).values()]
    assert records[0] == records[1]
    assert records[0]["source"] == "written by the model"


def test_stored_tokens_that_were_changed_are_refused(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path
) -> None:
    assert main(*asked, "--presets", "streamline-none", "--remove", "1")[0] == 0
    [file] = (tmp_path / "out/calibration").iterdir()
    data = bytearray(file.read_bytes())
    data[-8] ^= 1  # another last token
    file.write_bytes(data)
    assert main(*asked, "--presets", "streamline-none", "--remove", "1,2")[0] == 0
    assert "expected the tokens of sha256" in row_states(tmp_path / "out")["streamline-none-2"]["reason"]
    assert ran


def test_presets_and_sizes_may_stand_in_a_recipe(
    main: Main, ran: list[str], tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\npresets: [streamline-none, laco-mean]\nremove: [1, 25%]\ntext: [{text_file}]\n"
        "collapse: {combine: 2}\n"
    )
    assert main("compare", "--recipe", recipe, *SMALL, "--out", tmp_path / "out")[0] == 0
    states = row_states(tmp_path / "out")
    assert list(states) == ["laco-mean-1", "laco-mean-2", "streamline-none-1", "streamline-none-2"]
    assert states["laco-mean-1"]["plan"]["scores"]["settings"]["combine"] == 2
    # no text in common: each kind has its own held-out tokens, and a panel of its own
    assert len(measures(json.loads((tmp_path / "out/compare.json").read_text()))) == 2
    assert ran


class TestRefused:
    """One line, exit 2, and nothing written or changed."""

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (["--presets", "streamline-none,lacoo,laco"], ("preset 'lacoo'", "did you mean laco")),
            (["--presets", ""], ("--presets", "found none")),
            (["--presets", "laco,,streamline"], ("--presets", "an empty place in 'laco,,streamline'")),
            (["--presets", "laco, laco"], ("--presets", "'laco' twice")),
            (["--remove", ","], ("--remove", "found none")),
            (["--remove", "2,1,2"], ("--remove", "'2' twice")),
            (["--remove", "2,25%"], ("--remove", "2 and 25%, both 2 of 6 layers")),
            (["--remove", "2,6"], ("--remove: expected 1 to 5 of the 6 layers", "found '6'")),
            (["--remove", "2,many"], ("--remove", "'many'")),
            (["--eval-text", "none.txt"], ("none.txt", "No such file")),
            (["--length", "1"], ("length", "greater than 1")),
            (["--max-ram", "lots"], ("--max-ram",)),
            (["--threshold", "0.5"], ("`remove` and `threshold`",)),
            (["--tasks", "no_such_task"], ("no_such_task",)),
            (["--tasks", "tiny_words", "--task-dir", "nowhere"], ("nowhere",)),
            (["--limit", "0"], ("limit", "greater than 0")),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_before_anything_is_written(
        self, main: Main, ran: list[str], asked: Arguments, tmp_path: Path, changes: list[str], says: tuple[str, ...]
    ) -> None:
        before = contents(tmp_path)
        assert_one_line(*main(*asked, *changes), says)
        assert contents(tmp_path) == before
        assert ran in ([], ["preparing"])

    @pytest.mark.parametrize("force", [[], ["--force"]])
    @pytest.mark.parametrize("file", ["precious.txt", "comparison.json"])
    def test_a_folder_that_is_no_comparison(
        self, main: Main, ran: list[str], asked: Arguments, tmp_path: Path, file: str, force: list[str]
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / file).write_text("{}")
        line = assert_one_line(*main(*asked, *force), ("expected a comparison to go on with, or nothing",))
        assert str(tmp_path / "out") in line
        assert (tmp_path / "out" / file).read_text() == "{}"
        assert ran == []

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (["--seed", "1"], ("seed 0, with which it was begun", "found 1")),
            (["--length", "16"], ("length 32", "found 16")),
            (["--avoid-massive"], ("avoid_massive False",)),
            (["--presets", "streamline-none"], ("laco-last at 1", "--force")),
            (["--remove", "2"], ("streamline-none at 1",)),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_other_settings_name_the_first_difference(
        self, main: Main, begun: Arguments, tmp_path: Path, changes: list[str], says: tuple[str, ...]
    ) -> None:
        before = contents(tmp_path)
        assert_one_line(*main(*begun, *changes), says)
        assert contents(tmp_path) == before

    def test_a_text_that_changed(self, main: Main, begun: Arguments, tmp_path: Path) -> None:
        (tmp_path / "own.txt").write_text(tiny.text(seed=5))
        assert_one_line(*main(*begun), ("own.txt as it was when the comparison was begun", "sha256"))

    def test_a_model_that_changed(self, main: Main, begun: Arguments, ran: list[str], tmp_path: Path) -> None:
        shutil.copy(tiny.save(tmp_path / "other", seed=1) / "model.safetensors", tmp_path / "model")
        assert_one_line(*main(*begun), ("the model it was begun with", "sha256"))
        assert ran == ["preparing"]

    def test_a_folder_at_which_another_process_works(self, main: Main, begun: Arguments, tmp_path: Path) -> None:
        with (tmp_path / "out/.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert_one_line(*main(*begun), ("another `lowrise compare` at work in it",))

    def test_force_begins_anew(self, main: Main, begun: Arguments, ran: list[str], tmp_path: Path) -> None:
        assert main(*begun, "--force", "--seed", "1", "--presets", "streamline-none", "--remove", "1")[0] == 0
        assert list(row_states(tmp_path / "out")) == ["streamline-none-1"]
        assert ran == ["preparing", "the dense model", "streamline-none, 1 layer"]

    @pytest.fixture
    def begun(self, asked: Arguments, tiny_folder: Path, tmp_path: Path, ran: list[str], main: Main) -> Arguments:
        """A command whose folder is there, prepared, all rows still to come; its model and text may be changed."""
        (tmp_path / "own.txt").write_text(tiny.text())
        shutil.copytree(tiny_folder, tmp_path / "model")
        command = [asked[0], tmp_path / "model", *asked[2:], "--text", tmp_path / "own.txt"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("lowrise.compare.finish_rows", lambda *_: iter(()))
            patched.setattr("lowrise.compare.measure_dense", lambda *_: None)
            assert main(*command)[0] == 0
        ran.clear()
        return command


def test_a_setting_of_the_config_is_no_reason_to_crash(
    main: Main, ran: list[str], asked: Arguments, tiny_folder: Path, tmp_path: Path
) -> None:
    """A model that cannot be opened ends the comparison before its folder is made."""
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    edit_config(model, model_type="nonsense")
    assert_one_line(*main("compare", model, *asked[2:]), ("nonsense",))
    assert not (tmp_path / "out").exists()
    assert ran == ["preparing"]


# What follows is in processes of its own, as a user has it.

_PATIENCE = 120.0
_START = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def started(asked: Arguments) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(*changes: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _START, Path(sys.executable).with_name("lowrise"), *asked, *changes]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([*map(str, command)], env=os.environ, **pipes))  # type: ignore[call-overload]
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while not moment():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.01)


def gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_killed_in_the_middle_it_goes_on_without_repeating(
    main: Main,
    ran: list[str],
    asked: Arguments,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """SIGKILL while the second row is at work: its process goes too, the first row is kept as it is."""
    rows = tmp_path / "out" / "rows"
    chosen = ["--presets", "streamline-none", "--remove", "1,2"]
    process = started(*chosen)
    until((rows / "streamline-none-2" / "log.txt").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    gone(children)
    first = (rows / "streamline-none-1" / "row.json").read_bytes()
    assert not (rows / "streamline-none-2" / "row.json").exists()
    assert main(*asked, *chosen)[0] == 0
    assert ran == ["preparing", "streamline-none, 2 layers"]
    assert (rows / "streamline-none-1" / "row.json").read_bytes() == first
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_it_takes_its_row_along_and_says_how_to_go_on(
    main: Main,
    ran: list[str],
    asked: Arguments,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    row = tmp_path / "out" / "rows" / "streamline-none-1"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lowrise.compare.finish_rows", lambda *_: iter(()))
        assert main(*asked, "--presets", "streamline-none")[0] == 0
    assert ran == ["preparing", "the dense model"]
    asked.remove("--quiet")
    process = started("--presets", "streamline-none")
    until((row / "log.txt").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert "the same command goes on from there" in errors
    gone(children)
    assert not (row / "row.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
