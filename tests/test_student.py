"""The dense model without some layers, some of them changed (`edit/student.py`)."""

from __future__ import annotations

import pytest
import torch

import tiny
from lowrise.edit.merge import Mix, MixedParameters
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder

PATH = "mlp.down_proj.weight"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(tiny.model("llama"))


def changed(student: Student, layer: int) -> Student:
    student.change(layer, PATH, 2 * student.parameter(layer, PATH))
    return student


@torch.no_grad()
def test_a_run_from_a_stored_state_on_is_the_run_from_the_bottom(decoder: Decoder) -> None:
    student = changed(Student(decoder).without([3]), 4)
    h, calls = decoder.embed(tiny.ids())
    stored = dict(student.states(h, calls))
    assert list(stored) == [0, 1, 2, 4, 5, 6]
    for layer in (0, 2, 3, 4, 5):  # what enters 3, which is gone, enters 4
        entering = stored[max(layer, 4) if layer == 3 else layer]
        assert torch.equal(student.run(entering, calls, layer), stored[6])


@torch.no_grad()
def test_a_student_begins_to_differ_where_states_do(decoder: Decoder) -> None:
    dense = Student(decoder)
    h, calls = decoder.embed(tiny.ids())
    base = changed(dense.without([4]), 2)
    for trial, first in (
        (dense, 2),
        (base.without([5]), 5),
        (base.without([0]), 0),
        (changed(base.without([]), 3), 3),
        (changed(base.without([5]), 2), 2),
        (base.without([]), len(decoder)),
    ):
        assert trial.first_difference(base) == base.first_difference(trial) == first
        ours, theirs = dict(trial.states(h, calls)), dict(base.states(h, calls))
        assert all(torch.equal(ours[layer], theirs[layer]) for layer in ours.keys() & theirs.keys() if layer <= first)
        assert torch.equal(ours[len(decoder)], theirs[len(decoder)]) == (first == len(decoder))


def test_what_changes_in_a_trial_is_not_the_students(decoder: Decoder) -> None:
    student = changed(Student(decoder), 2)
    before = student.parameter(2, PATH)
    trial = changed(student.without([3]), 2)
    assert torch.equal(student.parameter(2, PATH), before)
    assert not torch.equal(trial.parameter(2, PATH), before)
    assert student.layers == list(range(len(decoder)))
    assert student.without([2]).changed == {}


@torch.no_grad()
def test_mixed_parameters_are_the_sum_and_made_when_asked_for(decoder: Decoder) -> None:
    mixed = MixedParameters(decoder.layers, Mix(1, (0.5, 0.0, 0.5)), "keep")
    assert not any("norm" in name for name in mixed)
    with pytest.raises(KeyError):
        _ = mixed["input_layernorm.weight"]
    one, other = (decoder.layers[layer].get_parameter(PATH) for layer in (1, 3))
    assert torch.allclose(mixed[PATH], (one + other) / 2)
    assert mixed[PATH] is not mixed[PATH]
    student = Student(decoder).without([2, 3])
    student.changed[1] = mixed
    assert torch.equal(student.parameter(1, PATH), mixed[PATH])
    assert torch.equal(student.parameter(1, "input_layernorm.weight"), decoder.layers[1].input_layernorm.weight)
