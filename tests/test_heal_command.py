"""`lowrise heal` by its real entry point, on a tiny model: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from lowrise.results import Results
from refusals import Main, assert_one_line

COMMON = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, text_file: Path) -> Path:
    """The tiny model without two layers, with its plan."""
    from lowrise import pipeline
    from lowrise.progress import Reporter
    from lowrise.recipe import build_recipe

    out = tmp_path_factory.mktemp("cuts") / "shallow"
    given = {"model": str(tiny_folder), "preset": "given", "layers": "2,3", "text": [str(text_file)], "device": "cpu"}
    pipeline.run(build_recipe({**given, "samples": 4, "length": 32}), out, False, Reporter(quiet=True))
    return out


def test_heal_writes_a_checkpoint_that_is_better_and_says_so(
    main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5))
    heal = ["--dense", tiny_folder, "--text", text_file, "--tokens", "4k", "--length", 32, "--learning-rate", 0.003]
    heal += ["--objective", "mix", "--guard", guard]  # words are nothing that a random model knows, so not kl alone
    status, printed, errors = main("heal", shallow, *heal, "--out", out, *COMMON, "--json")
    assert status == 0, errors
    results = Results.model_validate(json.loads(printed))
    healing = results.healing
    assert healing is not None
    assert (healing.trained, healing.objective, healing.teacher) == ("all", "mix", "resident")
    assert healing.steps == len(healing.train) == 4
    assert healing.kept > 0
    assert min(loss for _, loss in healing.train[-2:]) < healing.train[0][1]
    assert json.loads((out / "lowrise/results.json").read_text())["healing"] == json.loads(printed)["healing"]
    assert (out / "lowrise/plan.json").read_bytes() == (shallow / "lowrise/plan.json").read_bytes()
    assert "Healing" in (out / "lowrise/report.html").read_text()
    assert (out / "lowrise/healing.svg").is_file()
    healed, start = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, shallow))
    assert not torch.equal(healed.lm_head.weight, start.lm_head.weight)
    assert len(healed.model.layers) == tiny.LAYERS - 2


def test_bad_input_is_one_line(main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    def refused(*given: object, says: tuple[object, ...]) -> None:
        status, out, err = main("heal", *given, "--out", tmp_path / "out", *COMMON)
        assert_one_line(status, out, err, says)
        assert not (tmp_path / "out").exists()

    text = ["--text", text_file]
    refused(tiny_folder, "--dense", tiny_folder, *text, says=("fewer layers", "6"))
    refused(shallow, "--dense", tiny_folder, *text, "--tokens", "0", says=("--tokens", "100k or 2M"))
    refused(shallow, *text, says=("--dense", "name one"))
    refused(shallow, "--dense", tiny_folder, *text, "--report-to", "nothing", says=("--report-to", "accelerate"))
    refused(shallow, "--dense", tiny_folder, *text, "--tokens", "9M", says=("text for 9M tokens", "give more"))
