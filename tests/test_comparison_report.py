"""A comparison's table, pictures and page, from made-up rows: what is drawn, said and left out."""

from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowrise.plan import CalibrationRecord, Drop, ModelRecord, Plan
from lowrise.report.comparison import (
    RowState,
    columns,
    csv_comparison,
    markdown_comparison,
    row_line,
    summarise,
    terminal_comparison,
)
from lowrise.report.comparison_curves import draw_comparison
from lowrise.report.comparison_measures import measures
from lowrise.report.comparison_page import comparison_page
from lowrise.results import Comparison, Healing, Results
from pages import HEALING, Page

TASKS = {"reading": 0.6, "sums": 0.5}
REASON = "--form: expected a gated <b>MLP</b> | or another form, found none; choose --form paper"


MODEL = ModelRecord(source="a/b", family="llama", layers=30, sha256="cd")
SIZE = {"parameters_embeddings": 100, "bytes": 4000, "dtype": "float32"}


def perplexity(value: float) -> dict[str, Any]:
    return {"value": value, "loss": math.log(value), "tokens": 64, "windows": 2, "length": 32, "bos": False}


def scored(kept: float) -> dict[str, Any]:
    return {
        name: {"acc": kept * acc, "acc_stderr": 0.05, "n": 100, "chance": 0.25, "fewshot": 0}
        for name, acc in TASKS.items()
    }


def made_row(preset: str, removed: int, ratio: float, kept: float, took: float, **changes: Any) -> RowState:
    """A row as `Row.about` gives it, of a model of 30 layers and 1,000 parameters whose perplexity is 20.

    changes: to parts of its results.
    """
    results = {
        "layers": 30 - removed,
        "parameters": 1000 - 20 * removed,
        **SIZE,
        "perplexity": {"text.txt": perplexity(20 * ratio)},
        "tasks": scored(kept),
        "stability": {"reading": kept, "sums": kept - 0.1},
        "retained": {
            "layers": 1 - removed / 30,
            "parameters": 1 - removed / 50,
            "perplexity_ratio": {"text.txt": ratio},
            "tasks": {name: {"metric": "acc", "ratio": kept} for name in TASKS},
            "tasks_mean": {"ratio": kept, "ratio_low": kept - 0.05, "ratio_high": kept + 0.05},
        },
        "memory": {"peak_resident_bytes": 3_000_000_000, "peak_resident_bytes_until_written": 1_500_000_000},
        "versions": {},
        "seconds": {"open": 4.0, "observe": took, "write": 3.0, "measure": 50.0, "total": took + 57},
    }
    for part, change in changes.items():
        results[part] |= change
    plan = Plan(
        model=MODEL,
        preset=preset,
        calibration=CalibrationRecord(source="words.txt", tokens=320, samples=10, length=32, sha256="ab" * 32, seed=0),
        edits=[Drop(start=0, stop=removed)],
        layers_after=30 - removed,
        parameters_before=1000,
        parameters_after=1000 - 20 * removed,
    )
    done = Results.model_validate(results)
    return RowState(f"{preset}-{removed}", preset, removed, True, "done", 60.0, results=done, plan=plan)


@pytest.fixture
def compared() -> Comparison:
    rows = [
        made_row("streamline", 4, 1.5, 0.9, 60),
        made_row("laco", 4, 3e8, 0.5, 20),
        made_row("streamline", 8, 3.0, 0.8, 80),
        RowState("laco-8", "laco", 8, True, "failed", 5.0, REASON),
        RowState("laco-9", "laco", 9, True),
    ]
    return summarised(rows)


def summarised(rows: list[RowState]) -> Comparison:
    dense = Results.model_validate(
        {
            "layers": 30,
            "parameters": 1000,
            **SIZE,
            "perplexity": {"text.txt": perplexity(20.0)},
            "tasks": scored(1.0),
            "versions": {"lowrise": "0"},
            "memory": {},
            "seconds": {},
        }
    )
    return summarise(MODEL, 30, dense, rows, {"seed": 0})


def test_the_table_says_it_all_and_leaves_out_what_is_not_known(compared: Comparison) -> None:
    table = dict(columns(compared))
    assert table["layers removed"] == ["0 of 30", "4 of 30", "4 of 30", "8 of 30", "8 of 30", "9 of 30"]
    assert table["perplexity, text.txt"] == ["20.00", "×1.50", "×3.0e+08", "×3.00", "", ""]
    assert table["tasks retained"][1] == "90.0% (85% to 95%)"
    assert table["stability"][1] == "0.850"  # the mean of .9 and .8
    assert table["seconds to compress"][1] == "60.0"  # what is observed, without opening, writing and measuring
    assert table["peak memory"][1] == "1.50 GB"  # until the checkpoint was written
    assert table["note"] == [
        "",
        "",
        "collapsed: ×3.0e+08 on text.txt",
        "collapsed: ×3.00 on text.txt",
        f"failed: {REASON}",
        "not run yet",
    ]


def test_a_reason_does_not_break_the_table(compared: Comparison) -> None:
    lines = markdown_comparison(compared).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines[:8]} == {11}
    rows = list(csv.DictReader(io.StringIO(csv_comparison(compared))))
    assert rows[3]["note"] == f"failed: {REASON}"
    assert rows[3]["perplexity text.txt"] == ""
    assert float(rows[0]["reading acc"]) == pytest.approx(0.54)
    page = comparison_page(compared)
    assert "<b>MLP" not in page
    assert "&lt;b&gt;MLP" in page


def test_the_terminal_has_80_columns(compared: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=80).print(terminal_comparison(compared))
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[2].split()) == "streamline 4 of 30 92.0% ×1.50 90.0% 0.850 60.0 1.50 GB yes"
    assert max(map(len, lines)) <= 80


def test_a_ruin_is_named_and_not_drawn(compared: Comparison) -> None:
    """All four measures are there; perplexity is drawn as far as rows below ×100 go, ×1.0 to ×3.0."""
    found = {one.id: one for one in measures(compared)}
    assert list(found) == ["perplexity-0", "accuracy", "retained", "stability"]
    assert found["perplexity-0"].beyond == ("laco-4",)
    assert found["perplexity-0"].scale == pytest.approx((1 / 1.15, 3 * 1.4))
    assert (found["accuracy"].dense, found["accuracy"].chance) == pytest.approx((0.55, 0.25))
    assert "Beyond the top: laco-4" in comparison_page(compared)


def test_what_has_collapsed_is_never_the_best() -> None:
    """Whatever its tasks say: at 4 the sound one leads though it keeps less, at 8 there is none."""
    rows = [made_row("streamline", 4, 1.5, 0.8, 60), made_row("laco", 4, 3.0, 0.9, 20), made_row("laco", 8, 9, 0.9, 20)]
    page = Page(comparison_page(summarised(rows)))
    assert "best without 4 layersstreamline×1.50 perplexity" in page.text.replace("\n", "")
    assert "without 8 layersnoneall have collapsed" in page.text.replace("\n", "")


@pytest.mark.parametrize(
    ("kept", "tile"),
    [
        (0.75, "refit×1.40 perplexity, 75.0% task scores retained, tasks do not tell it from fold and drop"),
        (0.65, "fold×1.80 perplexity, 80.0% task scores retained"),
        (0.85, "refit×1.40 perplexity, 85.0% task scores retained"),
    ],
)
def test_tasks_decide_who_is_best_only_as_far_as_they_can_tell(kept: float, tile: str) -> None:
    """Intervals are ± .05: at .75 they touch those of .8, at .65 they do not."""
    rows = [made_row("fold", 8, 1.8, 0.8, 20), made_row("refit", 8, 1.4, kept, 60), made_row("drop", 8, 1.9, 0.8, 9)]
    assert f"best without 8 layers{tile}" in Page(comparison_page(summarised(rows))).text.replace("\n", "")


@pytest.mark.parametrize("healed", [True, False])
def test_what_was_healed_is_not_called_collapsed_for_its_cut(healed: bool) -> None:
    row = made_row("laco", 4, 1.5, 0.9, 20)
    assert row.plan is not None
    row.plan.scores = {"held_out": {"dense": 2.0, "after": 4.0, "perplexity_ratio": 7.39}}
    if healed:
        assert row.results is not None
        row = replace(row, results=row.results.but(healing=Healing(**HEALING)))
    (found,) = summarised([row]).finished
    assert (found.collapsed is None) is healed
    assert ("collapsed" in row_line(row)) is not healed


def test_repairing_is_part_of_compressing_and_measuring_is_not() -> None:
    stages = {"search": 20.0, "repair": 30.0, "held_out_loss": 7.0, "tasks": 9.0}
    row = made_row("refit", 8, 1.4, 0.8, 60, seconds=stages)
    assert summarised([row]).finished[0].seconds_to_compress == 110


def test_what_only_tasks_measured_tasks_decide() -> None:
    nothing = {"retained": {"perplexity_ratio": {}}}
    rows = [made_row("fold", 8, 1.8, 0.8, 20, **nothing), made_row("refit", 8, 1.4, 0.78, 60, **nothing)]
    results = summarised(rows)
    assert "best without 8 layersfold80.0% task scores" in Page(comparison_page(results)).text.replace("\n", "")


def test_pictures(compared: Comparison, tmp_path: Path) -> None:
    for name in draw_comparison(compared, tmp_path):
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")


def test_nothing_finished_is_no_picture_and_still_a_page(compared: Comparison, tmp_path: Path) -> None:
    results = compared.but(rows=compared.rows[3:])
    assert draw_comparison(results, tmp_path) == []
    assert "Not run yet" in comparison_page(results)


def test_what_has_no_value_is_left_empty_and_stops_nothing(tmp_path: Path) -> None:
    """Where the dense model scores 0, or too few resamples have a value, results hold null."""
    nothing = dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
    without = made_row(
        "streamline", 4, 1.3, 0.9, 60.0,
        retained={"tasks_mean": nothing, "tasks": {name: {"metric": "acc", "ratio": None} for name in TASKS}},
        stability={"reading": None},
        tasks={"sums": scored(0.9)["sums"] | {"acc_stderr": None}},
    )  # fmt: skip
    unsure = made_row("laco", 4, 1.4, 0.8, 5.0, retained={"tasks_mean": {**nothing, "ratio": 0.8}})
    compared = summarised([without, unsure])
    found = dict(columns(compared))
    assert found["tasks retained"] == ["100%", "", "80.0%"]
    assert found["stability"][1] == "0.800, 1 of 2 tasks"
    assert row_line(without) == "perplexity ×1.30 on text.txt, 60 s"
    assert "0.450 |" in markdown_comparison(compared)
    assert "streamline" in comparison_page(compared)
    assert draw_comparison(compared, tmp_path)


def test_a_mean_of_some_tasks_says_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    some = {"reading": {"metric": "acc", "ratio": 0.9}, "sums": {"metric": "acc", "ratio": None}}
    row = made_row("streamline", 4, 1.3, 0.9, 60.0, retained={"tasks": some})
    compared = summarised([row])
    assert dict(columns(compared))["tasks retained"][1] == "90.0% (85% to 95%), 1 of 2 tasks"
    assert "mean over 1 of 2 tasks; bars" in comparison_page(compared)
    Console(width=200).print(terminal_comparison(compared))
    assert "90.0%, 1 of 2 tasks" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1180, "light")])
def test_in_a_browser_every_chart_is_drawn_and_nothing_else_happens(
    browser: Any, compared: Comparison, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "compare.html"
    file.write_text(comparison_page(compared), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(file.as_uri())
    for one in ("depth-perplexity-0", "depth-accuracy", "depth-retained", "depth-stability", "time-retained"):
        page.wait_for_selector(f"#chart-{one}.drawn canvas")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert complaints == []
    page.close()
