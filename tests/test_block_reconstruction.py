"""The part of refit that follows a gradient, of one layer: what moves, how far, and who judges."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tiny
from lowrise.edit import block_reconstruction
from lowrise.edit.block_reconstruction import reconstruct_block
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from repairs import repair
from ridges import HELD_OUT
from tiny import windows

QUIET = Reporter(quiet=True)
FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi3"]  # plain, biased, transposed, parallel, fused
LAYER, STOP = 2, 4


@pytest.fixture
def layerwise(request: pytest.FixtureRequest) -> Iterator[LayerwisePass]:
    """Before the gap [3, 4) of a tiny model, the dense model behind it."""
    decoder = Decoder(tiny.model(getattr(request, "param", "llama")))
    kept = [layer for layer in range(tiny.LAYERS) if not LAYER < layer < STOP]
    with torch.no_grad(), ActivationStore() as store:
        made = LayerwisePass(Student(decoder, kept), windows(64), HELD_OUT, store, LAYER, mixed=False)
        for number, _, calls in made.batches():
            made.dense(number, calls)
        yield made


def of_attention(layerwise: LayerwisePass) -> list[str]:
    layer = layerwise.dense_layer
    return [matrix.parameter for matrix in (*layer.attention_inputs, layer.attention_output)]


def names_of(layerwise: LayerwisePass) -> list[str]:
    layer = layerwise.dense_layer
    return [*of_attention(layerwise), *layer.neuron_parameters, layer.mlp_write.parameter]


def error(layerwise: LayerwisePass, held: bool) -> torch.Tensor:
    """Mean ‖out - h[stop]‖²/‖h[stop]‖, written plainly."""
    total, tokens = torch.zeros(()), 0
    for number, one, calls in layerwise.batches():
        if one == held:
            target = layerwise.target(number)
            apart = (layerwise.run(number, calls)() - target).square().sum(-1) / target.norm(dim=-1)
            total, tokens = total + apart.sum(), tokens + apart.numel()
    return total / tokens


@pytest.mark.parametrize("layerwise", FAMILIES, indirect=True)
def test_held_out_tokens_are_met_better_and_nothing_but_the_layer_moves(layerwise: LayerwisePass) -> None:
    own = float(error(layerwise, held=True))
    before, after = reconstruct_block(layerwise)
    assert before == pytest.approx(own, rel=1e-5)
    assert after == pytest.approx(float(error(layerwise, held=True)), rel=1e-5)
    assert after < 0.99 * before
    assert set(layerwise.student.changed) == {LAYER}
    assert set(layerwise.student.changed[LAYER]) == set(names_of(layerwise))


def test_the_dense_models_own_numbers_and_gradients_stay(layerwise: LayerwisePass) -> None:
    before = copy.deepcopy(layerwise.decoder.model.state_dict())
    reconstruct_block(layerwise)
    assert all(torch.equal(value, before[name]) for name, value in layerwise.decoder.model.state_dict().items())
    assert all(value.grad is None for value in layerwise.decoder.model.parameters())
    assert not any(value.requires_grad for value in layerwise.student.changed[LAYER].values())


def test_one_step_is_adams(layerwise: LayerwisePass, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first: every weight goes as far against the sign of its gradient, a tenth of a step while it warms up."""
    monkeypatch.setattr(block_reconstruction, "EPOCHS", 1)
    monkeypatch.setattr(block_reconstruction, "STEP_TOKENS", 10**6)
    monkeypatch.setattr(Decoder, "batch_tokens", 10**6)
    with torch.no_grad(), ActivationStore() as store:
        one = LayerwisePass(layerwise.student, windows(64), HELD_OUT, store, LAYER, mixed=False)
        for number, _, calls in one.batches():
            one.dense(number, calls)
        layer = one.decoder.layers[LAYER]
        own = {name: layer.get_parameter(name) for name in names_of(one)}
        with torch.enable_grad():
            gradients = torch.autograd.grad(error(one, held=False), list(own.values()))
        reconstruct_block(one)
        for (name, value), gradient in zip(own.items(), gradients, strict=True):
            rate = block_reconstruction.ATTENTION_RATE if name in of_attention(one) else block_reconstruction.RATE
            step = 0.1 * rate / one.decoder.hidden_size**0.5 * value.square().mean().sqrt()
            assert torch.allclose(one.student.changed[LAYER][name], value - step * gradient.sign(), atol=1e-5)


@torch.no_grad()
def test_a_step_takes_as_many_tokens_however_they_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are larger on an accelerator."""
    monkeypatch.setattr(block_reconstruction, "STEP_TOKENS", 128)
    monkeypatch.setattr(block_reconstruction, "PATIENCE", block_reconstruction.EPOCHS)
    taken = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam) -> Any:
        taken[-1] += 1
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    found = []
    for size in (128, 1024):
        monkeypatch.setattr(Decoder, "batch_tokens", size)
        taken.append(0)
        fits = repair(Student(Decoder(tiny.model()), [0, 1, 2, 4, 5]), windows(64), HELD_OUT, "refit", QUIET)
        found.append(next(fit.after for fit in fits if fit.stop != fit.layer + 1))
    assert taken[0] == taken[1] == block_reconstruction.EPOCHS * (64 - HELD_OUT) * 32 // 128
    assert found[0] == pytest.approx(found[1], rel=0.1)


@pytest.mark.parametrize(("wanted", "epochs"), [(1, 2), (50, 4), (10**6, 6)])
def test_many_tokens_take_fewer_epochs_for_as_many_steps(
    layerwise: LayerwisePass, wanted: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_reconstruction, "STEP_TOKENS", 128)
    monkeypatch.setattr(block_reconstruction, "STEPS", wanted)
    steps, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (steps.append(1), step(self))[1])
    reconstruct_block(layerwise)
    an_epoch = (64 - HELD_OUT) * 32 // 128
    assert len(steps) == epochs * an_epoch
    assert wanted < 10 or epochs == 6 or (epochs - 1) * an_epoch < wanted <= epochs * an_epoch


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_where_no_neurons_move_it_is_no_worse_than_the_regression(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.edit.refit.neurons_apart", lambda _decoder: False)
    found = []
    for epochs in (0, block_reconstruction.EPOCHS):
        monkeypatch.setattr(block_reconstruction, "EPOCHS", epochs)
        fits = repair(Student(Decoder(tiny.model(family)), [0, 1, 2, 4, 5]), windows(64), HELD_OUT, "refit", QUIET)
        found.append(next(fit.after for fit in fits if fit.layer == LAYER))
    assert found[1] <= found[0]  # type: ignore[operator]


@pytest.mark.parametrize("forbids", ["mlp", "layer"])
def test_what_code_keeps_gradients_from_stays(
    layerwise: LayerwisePass, forbids: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layerwise.decoder.layers[LAYER]
    module = type(layer.mlp if forbids == "mlp" else layer)
    monkeypatch.setattr(module, "forward", torch.no_grad()(module.forward))
    for parameter in layerwise.decoder.model.parameters():
        parameter.requires_grad_(False)
    before, after = reconstruct_block(layerwise)
    assert (after < before) is (forbids == "mlp")
    new = layerwise.student.changed.get(LAYER, {})
    moved = {name for name, value in new.items() if not torch.equal(value, layer.get_parameter(name))}
    assert moved == (set(of_attention(layerwise)) if forbids == "mlp" else set())


def test_what_held_out_tokens_do_not_like_is_not_taken(
    layerwise: LayerwisePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_reconstruction, "RATE", 1e4)
    monkeypatch.setattr(block_reconstruction, "ATTENTION_RATE", 1e4)
    before, after = reconstruct_block(layerwise)
    assert before == after
    assert layerwise.student.changed == {}


def test_the_best_epoch_is_taken_and_not_the_last(layerwise: LayerwisePass, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[float] = []
    measure = block_reconstruction.held_out_error

    def noted(*arguments: Any) -> float:
        reached.append(measure(*arguments))
        return reached[-1]

    monkeypatch.setattr(block_reconstruction, "held_out_error", noted)
    monkeypatch.setattr(block_reconstruction, "PATIENCE", block_reconstruction.EPOCHS)
    monkeypatch.setattr(block_reconstruction, "RATE", 30.0)
    reconstruct_block(layerwise)
    assert len(reached) == 1 + block_reconstruction.EPOCHS
    assert min(reached) < reached[-1]  # or the test shows nothing
    assert float(error(layerwise, held=True)) == pytest.approx(min(reached), rel=1e-5)


def test_two_epochs_in_a_row_that_bring_nothing_are_the_last(
    layerwise: LayerwisePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([1.0, 0.9, 0.95, 0.8, 0.8, 0.81])
    monkeypatch.setattr(block_reconstruction, "held_out_error", lambda *_: next(errors))
    assert reconstruct_block(layerwise) == (1.0, 0.8)
    assert next(errors, None) is None


@torch.no_grad()
@pytest.mark.parametrize(("kept", "moved"), [([0, 1, 3, 5], [1, 3]), ([0, 1, 2, 5], [2]), ([2, 3, 4, 5], [])])
def test_layers_before_gaps_descend(kept: list[int], moved: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(context: LayerwisePass) -> tuple[float, float]:
        seen.append(context.layer)
        return reconstruct_block(context)

    monkeypatch.setattr("lowrise.edit.refit.reconstruct_block", noted)
    repair(Student(Decoder(tiny.model()), kept), windows(16), HELD_OUT, "refit", QUIET)
    assert seen == moved


@torch.no_grad()
def test_half_precision_descends_too() -> None:
    found = []
    for epochs in (0, block_reconstruction.EPOCHS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_reconstruction, "EPOCHS", epochs)
            student = Student(Decoder(tiny.model().to(torch.bfloat16)), [0, 1, 2, 4, 5])
            fits = repair(student, windows(64), HELD_OUT, "refit", QUIET)
            found.append(next(fit.after for fit in fits if fit.layer == 2))
    assert found[1] < found[0]  # type: ignore[operator]
