"""The number format that healing computes in: found by the device, said by the launcher or the recipe, recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import tiny
from lowrise.errors import ModelError
from lowrise.heal.objective import NEXT_TOKEN, StudentLoss
from lowrise.heal.precision import usual_precision
from lowrise.heal.trial import check_trainable
from lowrise.results import Healing
from tiny_families import tiny_model


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


class Computing:
    """What is asked of an accelerator, whose format is one for a whole process."""

    def __init__(self, mixed_precision: str) -> None:
        self.mixed_precision = mixed_precision

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision == "bf16")


@pytest.mark.parametrize(
    ("kind", "precision", "says"),
    [
        ("xmod", "bf16", r"trained in bfloat16, found .*dtype.*precision: \"no\""),
        ("xmod", "no", None),
        ("prophetnet", "no", "trained in float32.*cannot be healed"),
        ("llama", "bf16", None),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_it_begins(kind: str, precision: str, says: str | None) -> None:
    student = StudentLoss(lowrise.wrap(tiny_model(kind), tiny.tokenizer()).opened.decoder, NEXT_TOKEN)
    computing: Any = Computing(precision)
    if says is None:
        check_trainable(student, tiny.ids(), computing)
        return
    with pytest.raises(ModelError, match=says) as raised:
        check_trainable(student, tiny.ids(), computing)
    assert len(str(raised.value).splitlines()) == 1
