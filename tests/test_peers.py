"""Presets of peers through the command: what they write, what plan and page say of it, and that it opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from refusals import PLAIN, Main

MAPS = ("linear-patch", "ghosted")


@pytest.mark.parametrize("preset", ["prune-comp", "linear-patch", "ghosted", "lorp"])
def test_run(main: Main, preset: str, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, err = main("run", tiny_folder, *PLAIN, "--preset", preset, "--text", text_file, "--out", out)
    assert status == 0, err
    plan = json.loads((out / "lowrise" / "plan.json").read_text(encoding="utf-8"))
    results = json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))
    assert plan["loads_plainly"] == (preset not in MAPS)
    assert results["parameters"] == plan["parameters_after"]
    page = (out / "lowrise" / "report.html").read_text(encoding="utf-8")
    assert ("through a linear map where layers are gone" in page) == (preset in MAPS)
    assert ("nothing stands in their place" in page or "nothing stands in its place" in page) == (preset not in MAPS)
    if preset in MAPS:
        with pytest.raises(ValueError, match="trust_remote_code"):
            AutoModelForCausalLM.from_pretrained(out, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=preset in MAPS)
    with torch.no_grad():
        assert torch.isfinite(loaded(tiny.ids()).logits).all()


def test_what_a_repair_did_at_the_very_bottom_and_top_is_said(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    given = ["--preset", "given", "--layers", "0,5", "--repair", "ghosted", "--text", text_file]
    small = ["--length", 32, "--samples", 8, "--device", "cpu"]
    status, _, err = main("run", tiny_folder, *given, *small, "--out", tmp_path / "out")
    assert status == 0, err
    assert "embedding: held-out reconstruction error ×" in err
    assert "(target: input of layer 1)" in err
    assert "layer 4: held-out reconstruction error ×" in err
    assert "(target: output of the last layer)" in err
