"""Closed-form repairs against naive references with every activation stored, on tiny models of every kind of MLP."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GraniteConfig

import tiny
from lowrise.calibration import Windows
from lowrise.edit.cosine_map import cosine_map
from lowrise.edit.gram import RIDGES, Gram, fold, ridge_change, solve
from lowrise.edit.repair import gaps, repair
from lowrise.edit.student import Student, student_of
from lowrise.errors import ModelError
from lowrise.measure.perplexity import perplexity
from lowrise.model.decoder import Decoder
from lowrise.model.writes import captured, check_repair, mlp_write
from lowrise.plan import Drop, Merge
from lowrise.progress import Reporter
from lowrise.select.repaired import choose_repaired

QUIET = Reporter(quiet=True)
FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi3"]  # plain, biased, transposed, parallel, fused
NORMED = ["gemma2", "gemma3_text", "olmo2"]
HELD_OUT = 4


@functools.cache
def original(family: str) -> Any:
    return tiny.model(family)


def make(family: str) -> Decoder:
    return Decoder(copy.deepcopy(original(family)))


def windows(rows: int = 16, seed: int = 0) -> Windows:
    return Windows(tiny.ids(rows, 32, seed), "test", 0)


def without(*gone: int) -> list[int]:
    return [layer for layer in range(tiny.LAYERS) if layer not in gone]


def ridge(a: Tensor, e: Tensor, strength: float) -> Tensor:
    """argmin ‖A·X - E‖² + λ·m·‖X‖² by stacking √(λm)·1 below A."""
    scale = a.square().sum() / a.shape[1]
    below = (strength * scale).sqrt() * torch.eye(a.shape[1], dtype=a.dtype)
    stacked = torch.cat([a, below]), torch.cat([e, torch.zeros(a.shape[1], e.shape[1], dtype=e.dtype)])
    return torch.linalg.lstsq(*stacked).solution


def data(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 5, generator=generator), torch.randn(tokens, 3, generator=generator)


def gram(a: Tensor, e: Tensor) -> Gram:
    made = Gram(torch.zeros(a.shape[1], e.shape[1]))
    for part in zip(a.split(7), e.split(7), strict=True):
        made.add(*part)
    return made


class TestSolve:
    def test_is_the_ridge_regression_that_does_best_on_held_out_tokens(self) -> None:
        (a, e), (b, f) = data(60, 0), data(40, 1)
        e = e * 0.1 + a @ torch.ones(5, 3)
        f = f * 0.1 + b @ torch.ones(5, 3)
        found = solve(gram(a, e), gram(b, f))
        naive = {one: ridge(a.double(), e.double(), one) for one in RIDGES}
        errors = {one: float((b.double() @ x - f.double()).square().sum()) for one, x in naive.items()}
        best = min(errors, key=lambda one: errors[one])
        assert found.ridge == best
        assert torch.allclose(found.change, naive[best], atol=1e-5)
        assert found.after == pytest.approx(errors[best] / 40, rel=1e-4)
        assert found.before == pytest.approx(float(f.square().sum()) / 40, rel=1e-5)

    def test_changes_nothing_where_nothing_helps_on_held_out_tokens(self) -> None:
        (a, e), (b, _) = data(60, 0), data(40, 1)
        found = solve(gram(a, e), gram(b, -b @ ridge(a, e, 1e-5)))
        assert found.ridge is None
        assert not found.change.any()
        assert found.before == found.after

    def test_fold_is_the_least_squares_map_of_the_output(self) -> None:
        (a, e), matrix = data(60, 0), torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
        m = (a @ matrix).double()
        expected = matrix.double() @ torch.linalg.lstsq(m, e.double() + m).solution
        found = fold(gram(a, e), gram(a, e), matrix)
        assert torch.allclose(matrix + found.change, expected, atol=1e-5)


def test_the_cosine_map_goes_where_gradient_descent_in_full_goes() -> None:
    """The published loop written plainly: Adam from the identity, one step a batch."""
    generator = torch.Generator().manual_seed(0)
    m, rest, target = (torch.randn(4, 50, 6, generator=generator) for _ in range(3))
    tokens = [(m[i], m[i] + rest[i], target[i]) for i in range(4)]
    found, before, after = cosine_map(lambda: iter(tokens[:3]), lambda: iter(tokens[3:]), 6)
    t = torch.eye(6, requires_grad=True)
    optimiser = torch.optim.Adam([t], lr=1e-4)
    for _ in range(10):
        for i in range(3):
            optimiser.zero_grad()
            (1 - torch.cosine_similarity(m[i] @ t + rest[i], target[i], dim=-1)).mean().backward()
            optimiser.step()
    assert torch.allclose(found, t, atol=1e-5)
    distances = [
        1 - torch.cosine_similarity(m[3] @ x + rest[3], target[3], dim=-1).mean() for x in (torch.eye(6), t.detach())
    ]
    assert [before, after] == pytest.approx([float(one) for one in distances], abs=1e-6)


def naive_repair(decoder: Decoder, kept: list[int], tokens: Windows, how: str) -> None:
    """In place, all windows at once, dense states from a copy; the λ that the repair itself would take."""
    dense = Decoder(copy.deepcopy(decoder.model))
    targets = dict(dense.states(tokens.ids))
    for place, layer in enumerate(kept):
        stop = kept[place + 1] if place + 1 < len(kept) else tiny.LAYERS
        if stop == layer + 1:
            continue
        write = mlp_write(decoder, layer)
        weight = decoder.layers[layer].get_parameter(write.parameter)
        h, calls = decoder.enter(tokens.ids)
        with captured(write.module) as seen:
            for one in kept[: place + 1]:
                h = decoder.step(one, h, calls)
        a, e = seen[-1].reshape(*h.shape[:-1], -1).double(), (targets[stop] - h).double()
        fitted = a[:-HELD_OUT].flatten(0, 1), e[:-HELD_OUT].flatten(0, 1)
        rest = a[-HELD_OUT:].flatten(0, 1), e[-HELD_OUT:].flatten(0, 1)
        own = write.matrix(weight).double()
        if how == "fold":
            m = fitted[0] @ own
            change = own @ torch.linalg.lstsq(m, fitted[1] + m).solution - own
        else:
            tried = [torch.zeros_like(own), *(ridge(*fitted, one) for one in RIDGES)]
            change = min(tried, key=lambda x: float((rest[0] @ x - rest[1]).square().sum()))
        weight.copy_(write.weight((own + change).float()))


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold"])
@pytest.mark.parametrize("family", FAMILIES)
def test_repairs_bottom_up_as_the_naive_way_does(family: str, how: Any) -> None:
    kept, tokens = without(1, 3, 4), windows()
    ours, naive = make(family), make(family)
    student = Student(ours, kept)
    assert gaps(student) == [(0, 2), (2, 5)]
    fits = repair(student, tokens, HELD_OUT, how, QUIET)
    naive_repair(naive, kept, tokens, how)
    for layer in (0, 2):
        name = mlp_write(ours, layer).parameter
        assert torch.allclose(student.parameter(layer, name), naive.layers[layer].get_parameter(name), atol=2e-3), layer
    assert [(fit.layer, fit.stop) for fit in fits] == [(0, 2), (2, 5)]
    if how == "refit":
        assert all(fit.after <= fit.before for fit in fits)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_the_model_that_its_cut_leaves(family: str) -> None:
    decoder, tokens = make(family), windows()
    student = student_of(decoder, [Drop(start=1, stop=2, kind="refit"), Drop(start=3, stop=5, kind="refit")])
    dense = perplexity(decoder, tokens, QUIET)["loss"]
    assert Student(decoder, list(range(tiny.LAYERS))).loss(tokens) == pytest.approx(dense, abs=1e-5)
    repair(student, tokens, HELD_OUT, "refit", QUIET)
    assert perplexity(decoder, tokens, QUIET)["loss"] == dense  # nothing of the model was changed
    expected = student.loss(tokens)
    student.write()
    decoder.drop(3, 5)
    decoder.drop(1, 2)
    assert perplexity(decoder, tokens, QUIET)["loss"] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_a_layer_that_writes_nothing_costs_nothing() -> None:
    decoder = make("llama")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        decoder.layers[2].get_submodule(name).weight.zero_()
    student = Student(decoder, without(2))
    (fit,) = repair(student, windows(), HELD_OUT, "refit", QUIET)
    assert fit.before == pytest.approx(0, abs=1e-8)
    own = decoder.layers[1].get_parameter("mlp.down_proj.weight")
    assert torch.allclose(student.parameter(1, "mlp.down_proj.weight"), own, atol=1e-5)


@torch.no_grad()
def test_what_a_matrix_can_write_is_repaired_without_error() -> None:
    """The span adds a linear function of the inputs of the matrix before it, so a new matrix can write it itself."""
    decoder = make("llama")
    write = mlp_write(decoder, 1)
    extra = 0.1 * torch.randn(write.module.weight.shape, generator=torch.Generator().manual_seed(0))
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        decoder.layers[2].get_submodule(name).weight.zero_()
    inputs: list[Tensor] = []
    write.module.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    decoder.layers[2].register_forward_hook(lambda _module, _args, out: out + inputs[-1] @ extra.T)
    student = Student(decoder, without(2))
    (fit,) = repair(student, windows(32), HELD_OUT, "refit", QUIET)
    own = decoder.layers[1].get_parameter("mlp.down_proj.weight")
    assert fit.after < 1e-6 * fit.before
    assert torch.allclose(student.parameter(1, "mlp.down_proj.weight"), own + extra, atol=1e-2)


@torch.no_grad()
def test_how_tokens_are_batched_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (32, 4096):
        monkeypatch.setattr("lowrise.edit.repair.BATCH_TOKENS", size)
        student = Student(make("qwen2"), without(2, 3))
        repair(student, windows(), HELD_OUT, "refit", QUIET)
        found.append(student.parameter(1, "mlp.down_proj.weight"))
    assert torch.allclose(*found, atol=1e-5)


@torch.no_grad()
def test_a_merged_layer_is_repaired_from_its_mix() -> None:
    decoder, tokens = make("llama"), windows(64)
    student = student_of(decoder, [Merge(start=1, stop=3, rule="mean", repair="refit")])
    plain = copy.deepcopy(student.changed)
    (fit,) = repair(student, tokens, HELD_OUT, "refit", QUIET)
    assert (fit.layer, fit.stop) == (1, 3)
    assert fit.after < fit.before
    changed = {name for name, value in student.changed[1].items() if not torch.equal(value, plain[1][name])}
    assert changed == {"mlp.down_proj.weight"}


@pytest.mark.parametrize("family", NORMED)
def test_a_norm_behind_the_matrix_is_refused_by_name(family: str) -> None:
    decoder = make(family)
    with pytest.raises(
        ModelError,
        match=rf"repair of family {family}.*post_feedforward_layernorm.*choose a preset that repairs nothing",
    ):
        repair(Student(decoder, without(2)), windows(), HELD_OUT, "refit", QUIET)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_that_writes_as_it_is_passes_the_trial(family: str) -> None:
    check_repair(make(family))


def test_a_scaled_write_is_found_out_by_trying() -> None:
    config = GraniteConfig(**tiny.FAMILIES["llama"][1], residual_multiplier=0.22)
    decoder = Decoder(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ModelError, match=r"repair of family granite: .* added to the stream as it is, found one that"):
        check_repair(decoder)


def test_sums_that_rounding_spoils_are_passed_over() -> None:
    spoilt = gram(torch.zeros(8, 5), torch.zeros(8, 3))
    assert ridge_change(spoilt, 1e-3) is None
    found = solve(spoilt, gram(*data(40, 1)))
    assert found.ridge is None
    assert not found.change.any()


def test_the_search_keeps_its_shortlist_full_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.select.repaired.SHORTLIST", 2)
    choice = choose_repaired(make("llama"), windows(4), windows(2, seed=1), tiny.LAYERS - 1, 1, QUIET)
    assert sorted(choice.scores["layers"]) == list(range(1, tiny.LAYERS))
    tried = [sum(loss is not None for loss in one["losses"]) for one in choice.scores["rounds"]]
    assert tried == [5, 2, 2, 2, 1]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_search_takes_what_trying_every_layer_takes(family: str) -> None:
    """Against a naive search: a copy a trial, repaired in place, its loss measured from the embeddings."""
    decoder, tokens, deciding = make(family), windows(12), windows(4, seed=1)
    choice = choose_repaired(decoder, tokens, deciding, 2, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    kept, model = without(), copy.deepcopy(decoder.model)
    for round_ in choice.scores["rounds"]:
        losses, models = {}, {}
        for gone in kept[1:]:
            trial = Decoder(copy.deepcopy(model))
            left = [layer for layer in kept if layer != gone]
            before = kept[kept.index(gone) - 1]
            # only the layer before the one that goes is solved anew, toward the state of the dense model
            stop = next((layer for layer in left if layer > gone), tiny.LAYERS)
            target = dict(decoder.states(both.ids))[stop]
            write = mlp_write(trial, before)
            h, calls = trial.enter(both.ids)
            with captured(write.module) as seen:
                for one in left[: left.index(before) + 1]:
                    h = trial.step(one, h, calls)
            a, e = seen[-1], target - h
            cut = len(tokens)
            tried = [torch.zeros(a.shape[-1], e.shape[-1], dtype=torch.float64)]
            tried += [ridge(*(part[:cut].flatten(0, 1).double() for part in (a, e)), one) for one in RIDGES]
            rest = [part[cut:].flatten(0, 1).double() for part in (a, e)]
            change = min(tried, key=lambda x: float((rest[0] @ x - rest[1]).square().sum())).float()
            weight = trial.layers[before].get_parameter(write.parameter)
            weight.add_(write.weight(change))
            losses[gone], models[gone] = Student(trial, left).loss(deciding), trial.model
        assert round_["losses"] == pytest.approx([losses.get(layer) for layer in range(tiny.LAYERS)], abs=1e-4)
        removed = min(losses, key=lambda layer: losses[layer])
        assert round_["removed"] == removed
        kept.remove(removed)
        model = models[removed]
    assert choice.scores["loss"]["dense"] == pytest.approx(perplexity(decoder, deciding, QUIET)["loss"], abs=1e-5)
