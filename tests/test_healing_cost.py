"""What a healing takes, as it is counted and timed before it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tiny
from lowrise.cost.describe import shape_of
from lowrise.cost.healing import Healing
from lowrise.cost.healing import stages as healing_stages
from lowrise.cost.timing import timed
from lowrise.cost.work import Work
from lowrise.model.decoder import Decoder
from lowrise.settings import Heal, Precision


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(tiny.model())


def healing_of(decoder: Decoder, precision: Precision, *, tied: bool = True, **settings: Any) -> dict[str, Work]:
    shape = replace(shape_of(decoder, "model", 4), tied=tied)
    job = Healing(replace(shape, layers=4), shape, Heal(**settings), 1, precision=precision)
    return {stage.name: stage.work for stage in healing_stages(job)}


def test_adapters_take_longer_than_all_weights_in_bfloat16_alone(decoder: Decoder) -> None:
    def layers(train: str, precision: Precision) -> float:
        return healing_of(decoder, precision, train=train, objective="ce")["healing"].mixed

    assert layers("lora", "bf16") > layers("all", "bf16") == layers("all", "no") > layers("lora", "no")
    assert layers("gaps", "bf16") < layers("all", "bf16")


def test_a_tied_head_learns_below_all_layers(decoder: Decoder) -> None:
    """A head of its own learns with the last three of the four: a third forward, and three quarters of the way back."""
    whole = healing_of(decoder, "bf16", train="all", objective="ce")["healing"].mixed
    tied, own = (
        healing_of(decoder, "bf16", train="tail", objective="ce", tied=tied)["healing"].mixed for tied in (True, False)
    )
    assert own < tied < whole
    assert own == pytest.approx(whole * (1 / 3 + 2 / 3 * 3 / 4))


def test_stored_answers_are_computed_in_the_format_of_the_healing(decoder: Decoder) -> None:
    asked = healing_of(decoder, "bf16", teacher="stored", tokens="8k")["teacher"]
    assert (asked.forward, asked.mixed) == (0, pytest.approx(31 * 256 * 6 / 3))


def test_the_dense_model_adds_a_pass_forward_and_a_head_without_gradients(decoder: Decoder) -> None:
    alone, asked = (healing_of(decoder, "bf16", objective=of, tokens="8k")["healing"] for of in ("ce", "kl"))
    tokens = 31 * 256
    assert alone.taught == tokens
    assert asked.taught - alone.taught == pytest.approx(0.2 * tokens)
    assert asked.mixed - alone.mixed == pytest.approx(tokens * 6 / 3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_timing_a_healing_leaves_model_and_random_numbers_alone(decoder: Decoder, precision: Precision) -> None:
    decoder.model.requires_grad_(True)
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    state = torch.get_rng_state()
    rates = timed(decoder, shape_of(decoder, "model", 4), precision).rates
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    assert all(one.grad is None for one in decoder.model.parameters())
    assert min(rates.mixed, rates.taught) > 0
