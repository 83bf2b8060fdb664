"""Damaged files of a comparison: each is named and made anew, and no row is done without its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comparisons import Arguments, row_states
from lowrise.compare.child import StepResult
from refusals import Main, assert_one_line

ONE = ["--presets", "streamline-none", "--remove", "1"]
_SPOILT: list[Callable[[str], str]] = [
    lambda _: "",
    lambda text: text[: len(text) // 2],
    lambda _: "null",
    lambda _: '{"status": "done", "seconds": 1}',
    lambda _: "[" * 100_000,
    lambda text: text.replace("1", "2"),
]


@pytest.fixture
def out(main: Main, ran: list[str], asked: Arguments, tmp_path: Path) -> Path:
    assert main(*asked, *ONE)[0] == 0
    ran.clear()
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("prepared.json", ["preparing"]),
        ("dense/dense.json", ["the dense model"]),
        ("rows/streamline-none-1/row.json", ["preparing", "streamline-none, 1 layer"]),
        ("comparison.json", []),
    ],
)
def test_it_is_named_and_made_anew(
    main: Main, ran: list[str], asked: Arguments, out: Path, file: str, again: list[str]
) -> None:
    sound = (out / file).read_text()
    before = json.loads((out / "compare.json").read_text())
    for spoil in _SPOILT if file != "comparison.json" else _SPOILT[:-1]:
        ran.clear()
        (out / file).write_text(spoil(sound))
        status, _, errors = main(*asked, *ONE)
        assert (status, ran) == (0, again)
        assert f"{out / file} is damaged" in " ".join(errors.split())
        after = json.loads((out / "compare.json").read_text())
        assert after["dense"]["perplexity"] == before["dense"]["perplexity"]
        assert after["rows"][0]["perplexity"] == before["rows"][0]["perplexity"]


def test_without_what_was_asked_and_its_copy_it_is_no_comparison(main: Main, asked: Arguments, out: Path) -> None:
    for name in ("comparison.json", "prepared.json"):
        (out / name).write_text("{")
    assert_one_line(*main(*asked, *ONE), ("expected a comparison to go on with, or nothing",))
    assert (out / "prepared.json").read_text() == "{"


def test_a_model_that_changed_is_noticed_without_the_note_of_it(main: Main, asked: Arguments, out: Path) -> None:
    """The finished row knows what model it is of."""
    import tiny

    (out / "prepared.json").write_text("")
    other = tiny.save(out.parent / "other", seed=1)
    question = json.loads((out / "comparison.json").read_text())
    [row] = question["rows"].values()
    row["model"] = str(other)
    (out / "comparison.json").write_text(json.dumps(question))
    status, _, errors = main(asked[0], other, *asked[2:], *ONE)
    assert status == 2
    assert "the model it was begun with" in errors


def test_a_row_is_not_done_without_its_results(
    main: Main, ran: list[str], asked: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowrise.compare import steps

    sound = steps.run_step

    def empty(arguments: list[str], log: Path, title: str, progress: object, heard: object = None) -> StepResult:
        ended = sound(arguments, log, title, progress, heard)  # type: ignore[arg-type]
        if arguments[0] == "run":
            (Path(arguments[-1]) / "lowrise" / "results.json").write_text("{")
        return ended

    monkeypatch.setattr(steps, "run_step", empty)
    assert main(*asked, *ONE)[0] == 1
    [state] = row_states(tmp_path / "out").values()
    assert (state["status"], "left no results" in state["reason"]) == ("failed", True)
    monkeypatch.setattr(steps, "run_step", sound)
    ran.clear()
    assert main(*asked, *ONE)[0] == 0
    assert ran == ["preparing", "streamline-none, 1 layer"]


def test_a_comparison_leaves_no_lock(out: Path) -> None:
    assert not [path for path in out.parent.rglob("*") if path.name.endswith((".lock", ".partial", ".old"))]


def test_two_at_once_on_a_new_folder(main: Main, ran: list[str], asked: Arguments, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".out.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert_one_line(*main(*asked), ("another lowrise process at work for it",))
    assert ran == []
