"""What is seen of long work where no bar can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowrise import progress
from lowrise.compare.child import run_step
from lowrise.progress import Reporter

Main = Callable[..., tuple[int, str, str]]


def test_a_log_file_gets_a_line_whenever_a_minute_has_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 30.0, 61.0, 100.0, 120.0, 125.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with Reporter().bar("searching", 9) as bar:
        for _ in range(5):
            bar.advance(100, "divergence 0.3")
    assert capsys.readouterr().err.splitlines() == [
        "searching: 2 of 9  divergence 0.3  3 tokens/s",
        "searching: 5 of 9  divergence 0.3  4 tokens/s",
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_search_that_takes_minutes_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, quiet: bool
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    asked = ["--preset", "refit-span", "--remove", "2", "--text", text_file, "--samples", "10", "--length", "32"]
    options = ["--quiet"] if quiet else []
    status, _, said = main("plan", tiny_folder, *asked, "--out", tmp_path / "plan.json", *options)
    assert status == 0
    assert ("searching: 4 of 4  divergence " in said) != quiet


@pytest.mark.parametrize("quiet", [False, True])
def test_a_step_of_a_comparison_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet: bool
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    ended = run_step(["nonsense"], tmp_path / "log.txt", "row 1 of 2: refit", Reporter(quiet))
    assert ended.status == 2
    assert ("row 1 of 2: refit: 0 s" in capsys.readouterr().err) != quiet
