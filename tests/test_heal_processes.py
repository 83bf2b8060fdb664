"""Several processes heal as one does: `accelerate launch` on two CPU processes that speak gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny
from lowrise.results import Healing
from refusals import Main

LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
]


def healing_of(folder: Path) -> Healing:
    return Healing.model_validate(json.loads((folder / "lowrise/results.json").read_text())["healing"])


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    """A step is of so many tokens over all processes: two with two windows each are one with four."""
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5))
    heal = [shallow, "--dense", tiny_folder, "--text", text_file, "--guard", guard, "--tokens", 700, "--length", 32]
    heal += ["--objective", "mix", "--learning-rate", 0.003, "--quiet", "--recipe", tmp_path / "steps.yaml"]
    (tmp_path / "steps.yaml").write_text("heal: {batch_tokens: 128}\n")
    status, _, errors = main("heal", *heal, "--device", "cpu", "--out", tmp_path / "one")
    assert status == 0, errors
    command = [*LAUNCH, "--num_processes", "2", "-m", "lowrise", "heal", *heal, "--out", tmp_path / "two"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=280, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    one, two = healing_of(tmp_path / "one"), healing_of(tmp_path / "two")
    assert (one.processes, two.processes) == (1, 2)
    assert one.steps == two.steps == 6  # of 21 windows, the last step of one
    for own, other in zip(one.train, two.train, strict=True):
        assert own == (other[0], pytest.approx(other[1], rel=1e-4))
    for name, points in one.held_out.items():
        assert [loss for _, loss in points] == pytest.approx([loss for _, loss in two.held_out[name]], rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-3
