"""The number format that healing computes in: found by the device, said by the launcher or the recipe, recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from lowrise.heal.precision import usual_precision
from lowrise.results import Healing


@pytest.mark.parametrize(
    ("said", "amx", "device", "expected"),
    [
        (None, True, "cpu", "bf16"),
        (None, False, "cpu", "no"),
        ("no", True, "cpu", "no"),
        ("bf16", False, "cpu", "bf16"),
        ("fp16", False, "cpu", "no"),
        ("fp8", True, "cpu", "bf16"),
        (None, False, "cuda", "bf16"),
        ("no", False, "cuda", "bf16"),
        ("fp16", False, "cuda", "fp16"),
    ],
)
def test_what_is_usual(
    monkeypatch: pytest.MonkeyPatch, said: str | None, amx: bool, device: str, expected: str
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    if said is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", said)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert usual_precision(torch.device(device)) == expected


def test_bfloat16_heals_as_float32_does_but_for_rounding(tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    """In processes of their own: accelerate has one number format in a process."""
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    (tmp_path / "guard.txt").write_text(tiny.text(600, seed=5))
    found = {}
    for precision in ("no", "bf16"):
        out = tmp_path / precision
        command: list[object] = [sys.executable, "-m", "lowrise", "heal", shallow, "--dense", tiny_folder]
        command += ["--text", text_file, "--guard", tmp_path / "guard.txt", "--tokens", 700, "--length", 32, "--quiet"]
        command += ["--learning-rate", 0.003, "--device", "cpu", "--out", out]
        env = {**os.environ, "ACCELERATE_MIXED_PRECISION": precision}
        subprocess.run([*map(str, command)], check=True, timeout=280, env=env)
        found[precision] = Healing.model_validate(json.loads((out / "lowrise/results.json").read_text())["healing"])
    exact, rounded = found["no"], found["bf16"]
    assert (exact.precision, rounded.precision) == ("no", "bf16")
    one, other = ([loss for _, loss in healing.train] for healing in (exact, rounded))
    assert one != other
    assert other == pytest.approx(one, rel=0.02)
