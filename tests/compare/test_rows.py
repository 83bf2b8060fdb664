"""`lowrise compare`: one table of presets and sizes, rows that fail, and going on."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import tiny
from comparisons import SMALL, Arguments, row_states
from lowrise.calibration.stored import stored_tokens
from lowrise.compare import steps
from lowrise.compare.child import StepResult
from lowrise.compare.request import ask
from lowrise.report.comparison_curves import draw_comparison
from lowrise.report.comparison_measures import measures
from lowrise.report.comparison_page import comparison_page
from lowrise.results import Comparison
from refusals import Main


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
    assert draw_comparison(Comparison.model_validate(results), tmp_path) == ["depth.svg", "time.svg"]
    assert "laco-last" in comparison_page(Comparison.model_validate(results))


@pytest.mark.parametrize(("repair", "share"), [("none", 0.0), ("refit", 0.5)])
def test_a_setting_goes_to_the_rows_that_look_at_it(text_file: Path, repair: str, share: float) -> None:
    """A search of merges looks at sentences alone, but what is to be repaired is fitted on windows."""
    given = {
        "model": "M",
        "text": [str(text_file)],
        "synthetic_share": 0.5,
        "repair": repair,
        "search_budget": 2,
        "avoid_massive": True,
    }
    laco, refit, cosine = ask(["laco", "refit", "streamline-none"], ["2"], [given], "").recipes
    assert (laco.repair, laco.synthetic_share, laco.search_budget, laco.avoid_massive) == (repair, share, 1, False)
    assert (refit.repair, refit.synthetic_share, refit.search_budget, refit.avoid_massive) == ("refit", 0.5, 2, False)
    assert (cosine.repair, cosine.synthetic_share, cosine.search_budget, cosine.avoid_massive) == (repair, 0.5, 1, True)


@pytest.mark.usefixtures("ran")
@pytest.mark.slow
def test_the_peers_criteria_beside_each_other(main: Main, asked: Arguments, tmp_path: Path) -> None:
    """Those with a number of windows of their own keep it and share one file."""
    names = ["block-influence", "angular", "greedy-perplexity", "tail", "random"]
    status, _, errors = main(*asked, "--presets", ",".join(names), "--remove", "2", "--avoid-massive")
    assert (status, errors) == (0, "")
    states = row_states(tmp_path / "out")
    assert [states[f"{name}-2"]["status"] for name in names] == ["done"] * 5
    samples = {name: states[f"{name}-2"]["plan"]["calibration"]["samples"] for name in names}
    assert samples == {"block-influence": 8, "angular": 8, "greedy-perplexity": 4, "tail": 4, "random": 4}
    files = sorted(file.name for file in (tmp_path / "out" / "calibration").iterdir())
    assert files == ["windows-4x32.safetensors", "windows-8x32.safetensors"]
    results = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert draw_comparison(Comparison.model_validate(results), tmp_path) == ["depth.svg", "time.svg"]


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
    compared = Comparison.model_validate(results)
    assert [one.id for one in measures(compared)] == ["perplexity-0", "accuracy", "retained", "stability"]
    assert "tiny_words" in comparison_page(compared)
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


@pytest.fixture
def all_massive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every layer wrote massive activations, which is not known before a row has begun."""
    monkeypatch.setattr("lowrise.observe.massive.MassiveActivations.writers", lambda _: list(range(6)))


@pytest.mark.usefixtures("all_massive")
def test_a_method_that_fails_is_a_row_with_its_reason(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path
) -> None:
    chosen = ["--presets", "tail,block-influence", "--remove", 2, "--avoid-massive"]
    chosen += ["--form", "portable", "--loss", "relative"]  # of presets that are not asked for
    status, printed, errors = main(*asked, *chosen, "--json")
    assert (status, errors) == (0, "")
    rows = {row["preset"]: row for row in json.loads(printed)["rows"]}
    assert rows["tail"]["status"] == "done"
    assert "--avoid-massive: expected" in rows["block-influence"]["reason"]
    assert "failed: --avoid-massive: expected" in (tmp_path / "out/compare.md").read_text()
    ran.clear()
    assert main(*asked, *chosen)[0] == 0
    assert ran == []


def test_a_row_that_was_killed_is_a_row_too_and_is_tried_again(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = steps.run_step

    def killed(arguments: list[str], log: Path, title: str, progress: Any, heard: Any = None) -> StepResult:
        if "laco" not in title:
            return sound(arguments, log, title, progress, heard)
        log.write_text("half a line")
        return StepResult(-signal.SIGKILL, log, 1.0)

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


@pytest.mark.usefixtures("all_massive")
def test_all_rows_failed_is_exit_1(main: Main, ran: list[str], asked: Arguments) -> None:
    status, _, errors = main(*asked, "--presets", "angular,block-influence", "--remove", "2", "--avoid-massive")
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


def test_stored_tokens_that_were_changed_are_named_and_made_anew(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path
) -> None:
    assert main(*asked, "--presets", "streamline-none", "--remove", "1")[0] == 0
    [file] = (tmp_path / "out/calibration").iterdir()
    stored = stored_tokens(str(file)).sha256()
    data = bytearray(file.read_bytes())
    data[-8] ^= 1  # another last token
    file.write_bytes(data)
    status, _, errors = main(*asked, "--presets", "streamline-none", "--remove", "1,2")
    assert status == 0
    assert f"warning: {file} is damaged: made anew" in errors
    assert stored_tokens(str(file)).sha256() == stored
    assert {state["status"] for state in row_states(tmp_path / "out").values()} == {"done"}
    assert ran


def test_presets_and_sizes_may_stand_in_a_recipe(
    main: Main, ran: list[str], tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny_folder}\npresets: [streamline-none, laco-mean]\nremove: [1, 25%]\ntext: [{text_file}]\n"
        "merge_search: {combine: 2}\n"
    )
    assert main("compare", "--recipe", recipe, *SMALL, "--out", tmp_path / "out")[0] == 0
    states = row_states(tmp_path / "out")
    assert list(states) == ["laco-mean-1", "laco-mean-2", "streamline-none-1", "streamline-none-2"]
    assert states["laco-mean-1"]["plan"]["scores"]["settings"]["combine"] == 2
    # no text in common: each kind has its own held-out tokens, and a panel of its own
    assert len(measures(Comparison.model_validate_json((tmp_path / "out/compare.json").read_text()))) == 2
    assert ran
