"""LinearPatch and Ghosted layers against loops over tokens, and what they leave behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny
from cuts import logits
from lowrise.edit import ghosted, linear_patch
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.hadamard import rotation
from lowrise.edit.maps import attach_networks, parameters_added
from lowrise.edit.student import Student, student_of
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.decoder import Decoder
from lowrise.model.source import open_model
from lowrise.plan import Drop, Merge
from ridges import HELD_OUT
from stream import Heard, drop, states_of, task_of, walked

D = 32
SPANS = [(0, 2), (2, 3), (2, 5), (4, 6)]  # at the bottom, one layer, several, at the top
SCATTERED = [[(1, 2), (3, 5)], [(0, 1), (5, 6)], [(0, 1), (2, 3), (4, 6)]]
Method = Callable[[RepairTask], Repaired]
METHODS: list[Method] = [ghosted.repair, linear_patch.repair, linear_patch.repair_diagonal]


def without(gaps: list[tuple[int, int]]) -> list[int]:
    return tiny.without(*(layer for gap in gaps for layer in range(*gap)))


def maps_of(repaired: Repaired) -> dict[int, Tensor]:
    return {layer: network.map.weight.T.double() for layer, network in repaired.networks.items()}


def naive_ghosted(states: dict[int, Tensor], first: int, last: int) -> Tensor:
    squares, cross = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    for x, y in zip(states[first], states[last], strict=True):
        squares += torch.outer(x, x)
        cross += torch.outer(x, y - x)
    one = torch.eye(D, dtype=torch.float64)
    return one + torch.linalg.inv(squares + 1e-6 * one) @ cross


def naive_patch(states: dict[int, Tensor], first: int, last: int, h: Tensor) -> Tensor:
    sizes = torch.zeros(2, D, dtype=torch.float64)
    for pair in zip(states[first], states[last], strict=True):
        for row, x in zip(sizes, pair, strict=True):
            row += (x @ h).abs()
    return h @ torch.diag(sizes[1] / sizes[0]) @ h.T


def close(found: dict[int, Tensor], expected: dict[int, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(float((found[at] - one).norm() / one.norm()) < 1e-4 for at, one in expected.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("span", SPANS)
def test_a_ghosted_span_is_one_least_squares_map(family: str, span: tuple[int, int]) -> None:
    decoder = Decoder(tiny.model(family))
    fitted, _ = states_of(decoder, tiny.windows())
    repaired = ghosted.repair(task_of(Student(decoder, tiny.without(*range(*span)))))
    assert close(maps_of(repaired), {span[1]: naive_ghosted(fitted, *span)})


@pytest.mark.parametrize("gaps", SCATTERED)
def test_scattered_layers_are_ghosted_one_by_one(gaps: list[tuple[int, int]]) -> None:
    decoder = Decoder(tiny.model())
    fitted, _ = states_of(decoder, tiny.windows())
    expected = {}
    for start, stop in gaps:  # the maps of adjacent layers act one after the other
        expected[stop] = torch.eye(D, dtype=torch.float64)
        for layer in range(start, stop):
            expected[stop] = expected[stop] @ naive_ghosted(fitted, layer, layer + 1)
    assert close(maps_of(ghosted.repair(task_of(Student(decoder, without(gaps))))), expected)


@pytest.mark.parametrize("gaps", [*([span] for span in SPANS), *([*one] for one in SCATTERED)])
@pytest.mark.parametrize("diagonal", [False, True])
def test_a_patch_brings_channels_to_their_magnitude(gaps: list[tuple[int, int]], diagonal: bool) -> None:
    decoder = Decoder(tiny.model())
    fitted, _ = states_of(decoder, tiny.windows())
    h = torch.eye(D, dtype=torch.float64) if diagonal else rotation(D)[0]
    task = task_of(Student(decoder, without(gaps)))
    repaired = (linear_patch.repair_diagonal if diagonal else linear_patch.repair)(task)
    assert close(maps_of(repaired), {stop: naive_patch(fitted, start, stop, h) for start, stop in gaps})
    assert isinstance(task.progress, Heard)
    assert task.progress.said == []


def test_where_no_hadamard_matrix_is_known_it_is_said() -> None:
    decoder = Decoder(tiny.model("gpt2", hidden_size=52))
    task = task_of(Student(decoder, tiny.without(2)))
    repaired = linear_patch.repair(task)
    assert isinstance(task.progress, Heard)
    assert task.progress.said == ["no Hadamard matrix of order 52 is known here: a random orthogonal one stands for it"]
    (found,) = maps_of(repaired).values()
    assert torch.allclose(found, found.T, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gone", [(0, 1), (2, 3), (1, 4, 5)])
def test_errors_are_of_held_out_tokens(method: Method, gone: tuple[int, ...]) -> None:
    decoder = Decoder(tiny.model())
    _, held = states_of(decoder, tiny.windows())
    repaired = method(task_of(Student(decoder, tiny.without(*gone))))
    maps = maps_of(repaired)
    assert [fit.stop for fit in repaired.fits] == sorted(maps)
    for fit in repaired.fits:
        for found, by in ((fit.before, torch.eye(D, dtype=torch.float64)), (fit.after, maps[fit.stop])):
            errors = [
                float((y - x @ by).square().sum() / y.norm())
                for x, y in zip(held[fit.layer + 1], held[fit.stop], strict=True)
            ]
            assert found == pytest.approx(sum(errors) / len(errors), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_held_out_windows_are_fitted_by_nothing(method: Method) -> None:
    windows = tiny.windows()
    other = windows.ids.clone()
    other[-HELD_OUT:] = tiny.ids(HELD_OUT, 32, seed=5)
    student = Student(Decoder(tiny.model()), tiny.without(2, 4))
    one, two = (method(task_of(student, each)) for each in (windows, replace(windows, ids=other)))
    assert close(maps_of(one), maps_of(two))
    assert [fit.after for fit in one.fits] != [fit.after for fit in two.fits]


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_for_layers_that_write_nothing_the_map_is_the_identity(method: Method) -> None:
    decoder = Decoder(tiny.model())
    for layer in (2, 3):
        for module in (decoder.layers[layer].self_attn.o_proj, decoder.layers[layer].mlp.down_proj):
            module.weight.zero_()
    repaired = method(task_of(Student(decoder, tiny.without(2, 3))))
    assert torch.allclose(maps_of(repaired)[4], torch.eye(D, dtype=torch.float64), atol=1e-6)
    assert (repaired.fits[0].before, repaired.fits[0].layer) == (0.0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_layer_before_the_gap_is_what_the_map_starts_from(method: Method) -> None:
    decoder = Decoder(tiny.model())
    dense = Decoder(copy.deepcopy(decoder.model))
    fitted, _ = states_of(dense, tiny.windows())
    student = student_of(decoder, [Merge(start=1, stop=3, rule="mean", weights=[0.5, 0.5], norms="keep")])
    with torch.no_grad():
        h, calls = dense.embed(tiny.windows().ids)
        merged = student.step(1, dense.step(0, h, calls), calls)[:-HELD_OUT].flatten(0, 1).double()
    repaired = method(task_of(student))
    starts = {**fitted, 2: merged}
    expected = naive_ghosted(starts, 2, 3)
    if method is not ghosted.repair:
        turned = rotation(D)[0] if method is linear_patch.repair else torch.eye(D, dtype=torch.float64)
        expected = naive_patch(starts, 2, 3, turned)
    assert close(maps_of(repaired), {3: expected})
    mean = (dense.layers[1].mlp.down_proj.weight + dense.layers[2].mlp.down_proj.weight) / 2
    assert torch.allclose(decoder.layers[1].mlp.down_proj.weight, mean, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gone", [(0, 1), (4, 5), (1, 3, 4)])
def test_the_written_checkpoint_is_the_student_with_its_maps(
    method: Method, gone: tuple[int, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    opened, dense = open_model(str(tiny_folder), device="cpu"), Decoder(tiny.model())
    kept, decoder = tiny.without(*gone), opened.decoder
    student = Student(decoder, kept)
    before, promised = (
        {n: p.clone() for n, p in opened.model.named_parameters()},
        parameters_added(decoder, [Drop(start=layer, stop=layer + 1) for layer in gone]),
    )
    repaired = method(task_of(student))
    assert all(torch.equal(before[name], own) for name, own in opened.model.named_parameters())
    drop(decoder, kept)
    count = decoder.parameters()
    attach_networks(decoder, kept, repaired.networks)
    assert decoder.parameters() == count + promised
    changes = {at: (lambda h, by=one: h @ by.float()) for at, one in maps_of(repaired).items()}
    expected = walked(dense, kept, changes)  # type: ignore[arg-type]
    out = tmp_path / "out"
    out.mkdir()
    save_and_prove(opened, out, out=out, compute=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert torch.allclose(logits(loaded, tiny.ids()), expected, atol=1e-4 * float(expected.abs().max()))
