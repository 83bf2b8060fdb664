"""Whether tokens are enough for the widest matrix, and what is said where they are not."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import mixtures
import tiny
from lowrise.edit.calibration_size import note_on_size, widest_write
from lowrise.edit.gram import ENOUGH
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from repairs import repair
from tiny import windows, without


@pytest.mark.parametrize(("family", "inputs"), [("llama", 48), ("gpt2", 128), ("olmo2", 48)])
def test_the_widest_matrix_that_writes_is_the_mlps(family: str, inputs: int) -> None:
    assert widest_write(Decoder(tiny.model(family))) == inputs


def test_experts_are_left_out_for_few_tokens_are_theirs() -> None:
    assert widest_write(mixtures.decoder("mixtral")) == 32  # attention's


def test_what_is_asked_for_is_enough() -> None:
    decoder = Decoder(tiny.model("gpt2"))
    note = note_on_size(decoder, windows(20), 4)
    assert note is not None
    assert "512 tokens are fitted, 4.0 for each of 128 inputs" in note
    assert f"--samples {int(ENOUGH * 5)} " in note
    assert note_on_size(decoder, windows(int(ENOUGH * 5)), int(ENOUGH)) is None


@torch.no_grad()
def test_a_repair_says_it_before_it_begins() -> None:
    said = io.StringIO()
    reporter = Reporter()
    reporter.console = Console(file=said, soft_wrap=True)
    repair(Student(Decoder(tiny.model("llama")), without(2)), windows(8), 2, "refit", reporter)
    assert said.getvalue().splitlines()[0].endswith("--samples 20 would bring as many")
