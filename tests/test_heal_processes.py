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


ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")


@pytest.fixture(scope="module")
def heal(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, text_file: Path) -> list[object]:
    """A step is of so many tokens over all processes: two with two windows each are one with four."""
    folder = tmp_path_factory.mktemp("heal")
    shallow = tiny.save(folder / "shallow", num_hidden_layers=4)
    (folder / "guard.txt").write_text(tiny.text(600, seed=5))
    (folder / "steps.yaml").write_text("heal: {batch_tokens: 128}\n")
    heal: list[object] = [shallow, "--dense", tiny_folder, "--text", text_file, "--guard", folder / "guard.txt"]
    heal += ["--tokens", 700, "--length", 32, "--objective", "mix", "--learning-rate", 0.003, "--quiet"]
    return [*heal, "--recipe", folder / "steps.yaml"]


@pytest.fixture(scope="module")
def alone(heal: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "one"
    command = [sys.executable, "-m", "lowrise", "heal", *heal, "--device", "cpu", "--out", out]
    subprocess.run([*map(str, command)], check=True, timeout=280)
    return out


def launched(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = [*LAUNCH, "--num_processes", "2", *command]
    env = {**os.environ, **environment}
    return subprocess.run([*map(str, whole)], capture_output=True, text=True, timeout=280, env=env)


def assert_same(one: Path, two: Path) -> None:
    own, other = healing_of(one), healing_of(two)
    assert (own.processes, other.processes) == (1, 2)
    assert own.steps == other.steps == 6  # of 21 windows, the last step of one
    assert [tokens for tokens, _ in own.train] == [tokens for tokens, _ in other.train]
    assert [loss for _, loss in own.train] == pytest.approx([loss for _, loss in other.train], rel=1e-4)
    for name, points in own.held_out.items():
        assert [loss for _, loss in points] == pytest.approx([loss for _, loss in other.held_out[name]], rel=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-3


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(heal: list[object], alone: Path, tmp_path: Path) -> None:
    done = launched("-m", "lowrise", "heal", *heal, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    assert_same(alone, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["0", "1"], ids=["ddp", "fsdp2"])
def test_two_processes_that_were_stopped_go_on_to_the_curve_of_one(
    heal: list[object], alone: Path, tmp_path: Path, fsdp: str
) -> None:
    """What each holds of weights and moments is gathered, kept, and spread again; with FSDP2 they are parts."""
    command = [ON_CPU, "heal", *heal, "--out", tmp_path / "two"]
    stopped = launched(*command, FSDP=fsdp, STOP_AFTER="3")
    assert stopped.returncode != 0
    (record,) = tmp_path.glob(".two.*.work/healing.json")
    assert json.loads(record.read_text())["value"]["step"] == 3, stopped.stderr
    done = launched(*command, FSDP=fsdp)
    assert done.returncode == 0, done.stderr
    assert_same(alone, tmp_path / "two")
