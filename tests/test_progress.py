"""What is seen of long work, on a terminal and in a log file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lowrise import progress
from lowrise.cli.program import working
from lowrise.compare.child import run_step
from lowrise.progress import Reporter

Main = Callable[..., tuple[int, str, str]]


def test_a_log_file_gets_a_line_of_a_bar_whenever_it_was_silent_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now))
    with Reporter().bar("searching", 9) as bar:
        for now in (4.0, 8.0, 14.0, 16.0, 17.0):  # noqa: B007 - the clock
            bar.advance(100, "divergence 0.3")
    assert capsys.readouterr().err.splitlines() == [
        "searching: 2 of 9  divergence 0.3  25 tokens/s  8 s",
        "searching: 4 of 9  divergence 0.3  25 tokens/s  16 s",
    ]


def test_silence_is_shorter_than_promised() -> None:
    glance = 1.0
    assert progress._LINE_EVERY + glance < 10


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.02)


class Held:
    """Something that takes long: goes on when a line was said meanwhile, or after 10 seconds, which is `silent`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said, self.silent, self.held = 0, [], []  # type: ignore[var-annotated]
        self._monkeypatch = monkeypatch
        say = Reporter.say

        def noted(progress: Reporter, text: str) -> None:
            self.said += 1
            say(progress, text)

        monkeypatch.setattr(Reporter, "say", noted)

    def up(self, place: str) -> None:
        """The function at `place`, a dotted path, is held up at its start."""
        module, _, name = place.rpartition(".")
        own = getattr(__import__(module, fromlist=[name]), name)

        def slow(*given: Any, **named: Any) -> Any:
            before, began = self.said, time.monotonic()
            while self.said == before and time.monotonic() - began < 10:
                time.sleep(0.005)
            self.held.append(place)
            if self.said == before:
                self.silent.append(place)
            return own(*given, **named)

        self._monkeypatch.setattr(place, slow)


RUN = [
    "lowrise.pipeline.load_tasks",
    "lowrise.pipeline.opening.open_model",
    "lowrise.pipeline.opening.text_windows",
    "lowrise.pipeline.opening.calibration_windows",
    "lowrise.select.refit_search.choose_span_by_refit",
    "lowrise.pipeline.measuring.model_identity",
    "lowrise.pipeline.measuring.continuations",
    "lowrise.edit.layerwise.LayerwisePass",
    "lowrise.edit.refit.fit_input_map",
    "lowrise.edit.refit.reconstruct_block",
    "lowrise.edit.block_reconstruction.held_out_error",
    "lowrise.pipeline.building.save_and_prove",
    "lowrise.pipeline.building.build_report",
]


@pytest.mark.usefixtures("impatient")
def test_no_part_of_a_run_is_silent_in_a_log(
    monkeypatch: pytest.MonkeyPatch, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    held = Held(monkeypatch)
    for place in RUN:
        held.up(place)
    asked = ["--preset", "refit-span", "--remove", "2", "--text", text_file, "--eval-text", text_file, "--samples", "6"]
    status, _, _ = main("run", tiny_folder, *asked, "--length", "32", "--windows", "2", "--out", tmp_path / "out")
    assert (status, held.silent) == (0, [])
    assert set(held.held) == set(RUN)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("command", "places"),
    [
        (["measure", "MODEL", "--text", "TEXT"], ["lowrise.pipeline.open_from", "lowrise.pipeline.tell_collapse"]),
        (["observe", "MODEL", "--text", "TEXT", "--out", "OUT"], ["lowrise.pipeline.draw_observation"]),
    ],
    ids=["measure", "observe"],
)
def test_nor_of_the_other_commands(
    monkeypatch: pytest.MonkeyPatch,
    main: Main,
    tiny_folder: Path,
    text_file: Path,
    tmp_path: Path,
    command: list[str],
    places: list[str],
) -> None:
    held = Held(monkeypatch)
    for place in places:
        held.up(place)
    given = {"MODEL": tiny_folder, "TEXT": text_file, "OUT": tmp_path / "out"}
    status, _, _ = main(*(given.get(word, word) for word in command), "--length", "32")
    assert (status, held.silent, held.held) == (0, [], places)


@pytest.mark.usefixtures("impatient")
def test_quiet_is_silent(monkeypatch: pytest.MonkeyPatch, main: Main, tiny_folder: Path) -> None:
    monkeypatch.setattr("lowrise.pipeline.tell_collapse", lambda *_: time.sleep(0.2))
    assert main("measure", tiny_folder, "--quiet")[2] == ""


def on_a_terminal() -> tuple[Reporter, io.StringIO]:
    progress, screen = Reporter(), io.StringIO()
    progress.console = Console(file=screen, force_terminal=True, width=100, highlight=False, soft_wrap=True)
    return progress, screen


def test_the_seconds_of_a_stage_pass_on_a_terminal() -> None:
    progress, screen = on_a_terminal()
    with progress.stage("open"):
        time.sleep(1.3)
    assert all(f"open: {seconds} s" in screen.getvalue() for seconds in (0, 1))


def test_the_seconds_of_a_bar_pass_on_a_terminal_between_two_steps() -> None:
    progress, screen = on_a_terminal()
    with progress.stage("repair"), progress.bar("repairing", 3) as bar:
        bar.advance(10, "layer 3")
        time.sleep(1.3)
    assert all(f"0:00:0{seconds}" in screen.getvalue() for seconds in (0, 1))


@pytest.mark.parametrize(
    ("terminal", "quiet", "as_json", "said"),
    [(True, False, False, "starting\n"), (True, True, False, ""), (True, False, True, ""), (False, False, False, "")],
)
def test_a_command_says_on_a_terminal_at_once_that_it_starts(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, as_json: bool, said: str
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with working("run", quiet, as_json):
        assert screen.getvalue() == said


@pytest.mark.usefixtures("impatient")
def test_a_terminal_gets_lines_only_where_nothing_is_drawn() -> None:
    progress, screen = on_a_terminal()
    with progress.working("measure"):
        time.sleep(0.2)
        before = screen.getvalue()
        with progress.stage("open"):
            time.sleep(0.2)
    assert "measure: 0 s" in before
    assert "measure" not in screen.getvalue()[len(before) :]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_step_of_a_comparison_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet: bool
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    ended = run_step(["nonsense"], tmp_path / "log.txt", "row 1 of 2: refit", Reporter(quiet))
    assert ended.status == 2
    assert ("row 1 of 2: refit: 0 s" in capsys.readouterr().err) != quiet
