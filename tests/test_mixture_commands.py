"""A mixture of experts, cut and repaired through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import mixtures
import tiny
from refusals import Main

QUICK = ["--samples", "64", "--length", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gpt-oss whose last expert is chosen by no token."""
    made, folder = mixtures.model("gpt_oss"), tmp_path_factory.mktemp("models") / "mixture"
    with torch.no_grad():
        for layer in made.model.layers:
            layer.mlp.router.bias[3] = -1e4
    made.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def cut(main: Main, folder: Path, text: Path, out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    status, _, errors = main("run", folder, "--text", text, "--out", out, *QUICK, *options)
    assert status == 0, errors
    return errors, json.loads((out / "lowrise" / "results.json").read_text())


def test_a_mixture_is_refit_and_says_to_which_experts_few_tokens_came(
    main: Main, folder: Path, text_file: Path, tmp_path: Path
) -> None:
    said, results = cut(main, folder, text_file, tmp_path / "out", "--layers", "2,3", "--repair", "refit")
    before_gap = results["repairs"][0]
    assert (before_gap["layer"], before_gap["experts"], before_gap["few"]) == (1, 4, 1)
    assert before_gap["after"] < before_gap["before"]
    assert "1 of 4 in layer 1" in said and "more --samples" in said
    page = (tmp_path / "out" / "lowrise" / "report.html").read_text(encoding="utf-8")
    assert "Experts that few calibration tokens came to, which hardly moved: 1 of 4 in layer 1" in page
    made, whole = (AutoModelForCausalLM.from_pretrained(one) for one in (tmp_path / "out", folder))
    own, old = (one.model.layers[1].mlp for one in (made, whole))
    assert torch.equal(own.router.weight, old.router.weight)
    assert not torch.equal(own.experts.down_proj[0], old.experts.down_proj[0])


@pytest.mark.parametrize("preset", ["refit", "replaceme"])
def test_presets_choose_layers_of_a_mixture_and_repair_what_is_left(
    main: Main, folder: Path, text_file: Path, tmp_path: Path, preset: str
) -> None:
    _, results = cut(main, folder, text_file, tmp_path / "out", "--remove", "2", "--preset", preset, "--quiet")
    assert results["layers"] == tiny.LAYERS - 2 and results["repairs"]
