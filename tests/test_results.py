"""What is written is what was found: older files open, nothing is added, nothing unknown is let in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lowrise.errors import OutputError
from lowrise.report.folder import parse
from lowrise.results import Analysis, Comparison, Observation, Perplexity, Record, Results, TaskRetained, TaskScores
from refusals import Main, assert_one_line

OLDER = Path(__file__).with_name("older")  # as they were written before files had a format


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("results.json", Results),
        ("measure.json", Results),
        ("observation.json", Observation),
        ("observe.json", Analysis),
        ("compare.json", Comparison),
    ],
)
def test_older_files_open_and_are_written_as_they_were_with_a_format(file: str, kind: type[Record]) -> None:
    """Key by key in their order: as text, not only as values."""
    content = json.loads((OLDER / file).read_text())
    assert kind.model_validate(content).to_json() == json.dumps({"format": 1, **content}, indent=2)
    with pytest.raises(ValidationError, match="format"):
        kind.model_validate({**content, "format": 2})
    with pytest.raises(ValidationError, match="surprise"):
        kind.model_validate({**content, "surprise": 1})


def test_what_was_not_set_is_not_written_and_what_has_no_value_is_null() -> None:
    kept = TaskRetained(ratio=None, reason_ratio="the dense model scores 0")
    assert kept.model_dump() == {"ratio": None, "reason_ratio": "the dense model scores 0"}
    with pytest.raises(ValidationError, match="loss"):
        Perplexity.model_validate({"value": 2.0, "tokens": 8, "windows": 1, "length": 8, "bos": False})


def test_numbers_of_a_ruin_come_through() -> None:
    text = {"value": math.inf, "loss": math.nan, "tokens": 8, "windows": 1, "length": 8, "bos": False}
    again = Perplexity.model_validate(json.loads(Perplexity.model_validate(text).to_json()))
    assert again.value == math.inf
    assert math.isnan(again.loss)


def test_a_tasks_metrics_stand_first_in_its_own_order() -> None:
    """A metric is a number or null, whatever its name."""
    row = {"exact_match,flexible": 0.5, "acc": None, "acc_stderr": 0.1, "n": 3, "fewshot": 0}
    scores = TaskScores.model_validate(row)
    assert list(scores.model_dump()) == list(row)
    assert (scores.metrics, scores.score("acc"), scores.error("acc")) == (["exact_match,flexible", "acc"], None, 0.1)
    with pytest.raises(ValidationError, match="acc"):
        TaskScores.model_validate({**row, "acc": "good"})


def test_a_damaged_file_is_one_line_that_names_the_place() -> None:
    content: dict[str, Any] = json.loads((OLDER / "results.json").read_text())
    content["perplexity"]["words.txt"]["value"] = None
    with pytest.raises(OutputError, match=r"results: perplexity.words.txt.value: expected a valid number"):
        parse(Results, content, "results")


def test_every_command_writes_the_format(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    common = ["--text", text_file, "--length", 32, "--device", "cpu", "--quiet", "--json"]
    cut = ["--preset", "streamline-none", "--remove", 2, "--samples", 8]
    run = main("run", tiny_folder, *cut, *common, "--out", tmp_path / "out")
    measured = main("measure", tiny_folder, *common, "--out", tmp_path / "measured.json")
    seen = main("observe", tiny_folder, *common, "--samples", 4, "--out", tmp_path / "seen")
    files = [tmp_path / "out/lowrise/results.json", tmp_path / "measured.json", tmp_path / "seen/observation.json"]
    for (status, printed, errors), file in zip((run, measured, seen), files, strict=True):
        assert status == 0, errors
        assert json.loads(printed) == json.loads(file.read_text())
        assert next(iter(json.loads(printed).items())) == ("format", 1)
    assert json.loads((tmp_path / "out/lowrise/observation.json").read_text())["format"] == 1


def test_apply_refuses_scores_that_a_page_could_not_read(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    made = ["--preset", "streamline-none", "--remove", 2, "--samples", 8, "--length", 32, "--text", text_file]
    assert main("plan", tiny_folder, *made, "--out", plan, "--quiet")[0] == 0
    content = json.loads(plan.read_text())
    content["scores"]["cosine"] = "high"
    plan.write_text(json.dumps(content))
    assert_one_line(*main("apply", tiny_folder, plan, "--out", tmp_path / "out", "--quiet"), ("scores.cosine",))
    assert not (tmp_path / "out").exists()
