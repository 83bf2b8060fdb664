"""One rule for what counts as collapsed: terminal, page, card and the table of a comparison say it together or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comparisons import SMALL, Arguments
from lowrise import quality
from lowrise.quality import HELD_OUT, SEARCHED, collapsed_on
from lowrise.report.verdict import collapse_notice
from refusals import Main, assert_one_line

EVERYTHING, NOTHING = 1e-9, 1e9  # perplexity ratios from which the models of these tests count as collapsed


@pytest.mark.parametrize(
    ("ratios", "own", "expected"),
    [
        ({"a": 2.99}, None, None),
        ({"a": 1.0, "b": 3.0}, None, ("b", 3.0)),
        ({"a": 4.0, "b": 8.78}, 3.5, ("b", 8.78)),
        ({"a": 1.5}, 3.0, (SEARCHED, 3.0)),
        ({"a": 3.5}, 9.0, ("a", 3.5)),  # which tables show
        ({}, 2.0, None),
        ({"a": float("inf")}, 1.0, ("a", float("inf"))),
    ],
)
def test_from_three_times_on_on_any_text_or_the_sentences(
    ratios: dict[str, float], own: float | None, expected: tuple[str, float] | None
) -> None:
    scores = {} if own is None else {"loss": {"dense": 3.0, "after": 4.0, "perplexity_ratio": own}}
    assert collapsed_on(ratios, scores, healed=False) == expected


def test_so_do_held_out_calibration_tokens() -> None:
    scores = {"loss": {"dense": 3.0, "after": 9.0}, "held_out": {"perplexity_ratio": 3.5}}
    assert collapsed_on({"a": 2.0}, scores, healed=False) == (HELD_OUT, 3.5)
    unknown = {"held_out": {"after": None, "perplexity_ratio": None}}
    assert collapsed_on({"a": 2.0}, unknown, healed=False) is None


def test_numbers_that_no_table_shows_are_said() -> None:
    """exp(2) is 7.39, exp(4) is 54.60."""
    found = collapse_notice(
        {"a": 2.0}, {"held_out": {"dense": 2.0, "after": 4.0, "perplexity_ratio": 7.39}}, healed=False
    )
    assert found is not None
    assert "×7.39 the dense model's on calibration, held out, 7.39 → 54.60, which the plan notes" in found.text


@pytest.mark.parametrize(
    ("healed", "advice", "other"),
    [(True, "Heal on more tokens", "preset"), (False, "Remove fewer layers, choose another preset", "more tokens")],
)
def test_the_advice_is_of_the_command(healed: bool, advice: str, other: str) -> None:
    found = collapse_notice({"a": 4.0}, {}, healed=healed)
    assert found is not None
    assert advice in found.text
    assert other not in found.text


def test_what_is_no_number_is_a_collapse() -> None:
    found = collapsed_on({"a": 1e9, "b": float("nan")}, {}, healed=False)
    assert found is not None
    assert found[0] == "b"


@pytest.mark.parametrize("limit", [EVERYTHING, NOTHING])
@pytest.mark.parametrize("preset", ["streamline-none", "laco-last"])
def test_run_and_measure_say_it_on_stderr_and_page_and_card_too(
    main: Main,
    tiny_folder: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    limit: float,
) -> None:
    monkeypatch.setattr(quality, "COLLAPSED_RATIO", limit)
    out, texts = tmp_path / "out", ["--text", text_file, "--eval-text", text_file]
    status, _, said = main("run", tiny_folder, "--preset", preset, "--remove", 2, *texts, *SMALL, "--out", out)
    assert status == 0
    loud = limit == EVERYTHING
    assert ("THE MODEL HAS COLLAPSED" in said) is loud
    assert ("The model has collapsed" in (out / "lowrise/report.html").read_text()) is loud
    assert ("**The model has collapsed.**" in (out / "README.md").read_text()) is loud
    status, _, said = main("measure", out, "--dense", tiny_folder, "--text", text_file, *SMALL[2:])
    assert status == 0
    assert ("THE MODEL HAS COLLAPSED" in said) is loud


def test_strict_leaves_nothing_of_a_model_that_collapses_on_a_text(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the search, whose own sentences it keeps, has let it pass."""
    lost = "lowrise.pipeline.measuring.collapsed_on"
    monkeypatch.setattr(lost, lambda ratios, _, **__: ("words.txt", ratios["words.txt"]))
    texts = ["--text", text_file, "--eval-text", text_file]
    done = main("run", tiny_folder, "--preset", "laco-mean", "--remove", 2, "--strict", *texts, *SMALL,
                "--out", tmp_path / "out")  # fmt: skip
    assert_one_line(*done, ("--strict: expected a model that keeps", "on words.txt"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("limit", [EVERYTHING, NOTHING])
def test_a_comparison_marks_every_preset_by_it(
    main: Main, asked: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(quality, "COLLAPSED_RATIO", limit)
    status, printed, _ = main(*asked, "--remove", "2")
    assert status == 0
    for row in json.loads((tmp_path / "out/compare.json").read_text())["rows"]:
        assert (row["collapsed"] is not None) is (limit == EVERYTHING)
        assert (f"{row['name']}: collapsed: ×" in printed) is (limit == EVERYTHING)


def test_a_healing_ends_what_a_plan_says_of_the_cut() -> None:
    scores = {"held_out": {"dense": 2.0, "after": 4.0, "perplexity_ratio": 7.39}}
    assert collapsed_on({"a": 2.0}, scores, healed=True) is None
    assert collapsed_on({"a": 3.5}, scores, healed=True) == ("a", 3.5)


@pytest.mark.parametrize("healed", [True, False])
@pytest.mark.usefixtures("ran")
def test_a_row_that_was_healed_is_judged_by_what_it_is_now(
    main: Main, asked: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healed: bool
) -> None:
    """Its cut alone has collapsed, by held-out tokens of the calibration."""
    monkeypatch.setattr("lowrise.pipeline.repairing.HeldOutLoss.loss", Falling())
    heal = ["--heal", 200] if healed else []
    status, printed, errors = main(*asked, "--presets", "tail", "--remove", 1, *heal)
    assert status == 0, errors
    (row,) = json.loads((tmp_path / "out/compare.json").read_text())["rows"]
    assert (row["collapsed"] is None) is healed
    assert ("collapsed" in printed) is not healed


class Falling:
    """In the place of the loss on held-out tokens: 2 nats, then 4."""

    def __init__(self) -> None:
        self.said = 0.0

    def __call__(self, *_: object) -> float:
        self.said += 2
        return self.said
