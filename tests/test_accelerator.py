"""What runs on an accelerator is what runs on the CPU, but for rounding. Run by `pytest -m gpu` where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.select.refit_search import choose_by_refit
from refusals import Main
from repairs import repair

pytestmark = pytest.mark.gpu

QUIET = Reporter(quiet=True)
PRESETS = ["refit", "replaceme", "replaceme-cosine", "streamline", "laco", "greedy-perplexity", "block-influence"]


def on_both(family: str) -> list[Decoder]:
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return [Decoder(tiny.model(family).to(device)) for device in ("cpu", accelerator)]


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold", "fold-cosine"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_repairs_are_those_of_the_cpu(family: str, how: Any) -> None:
    """By the errors they leave: losses of random models hardly tell repairs apart."""
    found = []
    for decoder in on_both(family):
        fits = repair(Student(decoder, [0, 1, 4, 5]), Windows(tiny.ids(512, 32), "test", 0), 64, how, QUIET)
        found.append({fit.layer: fit for fit in fits})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for layer, fit in ours.items():
        assert fit.after == pytest.approx(theirs[layer].after, rel=0.05 if fit.descended else 1e-2)
        assert (fit.stop, fit.neurons, fit.descended) == (
            theirs[layer].stop,
            theirs[layer].neurons,
            theirs[layer].descended,
        )


@torch.no_grad()
def test_the_search_is_that_of_the_cpu() -> None:
    found = []
    for decoder in on_both("llama"):
        fitted, deciding = Windows(tiny.ids(64, 32), "test", 0), Windows(tiny.ids(16, 32, 1), "test", 0)
        choice = choose_by_refit(decoder, fitted, deciding, 2, 1, QUIET)
        found.append(choice.scores["rounds"][0]["divergences"])
    for one, other in zip(*found, strict=True):
        assert one == other or one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_where_auto_leads(
    preset: str, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    size = ["--threshold", "0.1"] if preset == "laco" else ["--remove", "2"]
    arguments = ["run", tiny_folder, "--preset", preset, "--text", text_file, "--out", out, *size, "--quiet"]
    calibration = [] if preset == "laco" else ["--samples", "64", "--length", "32"]
    status, _, errors = main(*arguments, *calibration, "--eval-text", text_file, "--windows", "4")
    assert (status, errors) == (0, "")
    results = json.loads((out / "lowrise" / "results.json").read_text())
    assert results["perplexity"]
