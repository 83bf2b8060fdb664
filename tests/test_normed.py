"""Refit where a norm stands between what attention and MLP make and the stream: steps instead of solutions."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny
from lowrise.edit.gram import solve, two_grams, weight_of
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.refit import _pass_dense, _refit_attention_write
from lowrise.edit.student import Student
from lowrise.edit.write import DAMPING, Write, attention_of, mlp_of
from lowrise.edit.writing import STEPS, held_out_error, refit_write, sums
from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured
from lowrise.model.refittable import check_writes, refit_support
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from repairs import repair
from ridges import HELD_OUT, best_ridge
from tiny import windows, without

QUIET = Reporter(quiet=True)
NORMED = ["gemma2", "gemma3_text", "olmo2", "glm4"]
LAYER, STOP = 2, 4


def make(family: str, dtype: torch.dtype = torch.float32) -> Decoder:
    if family != "glm4":
        return Decoder(tiny.model(family).to(dtype))
    torch.manual_seed(0)
    settings = {**tiny.FAMILIES["llama"][1], "head_dim": 8}
    model = AutoModelForCausalLM.from_config(transformers.Glm4Config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Decoder(model.eval().to(dtype))


def writes(decoder: Decoder, layer: int) -> tuple[Write, Write]:
    own = decoder.layer(layer)
    return attention_of(own, own.parameter), mlp_of(own, own.parameter)


@pytest.fixture
def layerwise(request: pytest.FixtureRequest) -> Iterator[LayerwisePass]:
    """Before the gap [3, 4) of a tiny model, the dense model behind it."""
    decoder = make(getattr(request, "param", "gemma2"))
    with torch.no_grad(), ActivationStore() as store:
        made = LayerwisePass(Student(decoder, without(3)), windows(64), HELD_OUT, store, LAYER, mixed=False)
        for number, _, calls in made.batches():
            made.dense(number, calls)
        yield made


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", NORMED)
def test_what_is_written_is_linear_in_what_stands_for_the_matrix(family: str, dtype: torch.dtype) -> None:
    decoder = make(family, dtype)
    h, calls = decoder.embed(tiny.ids())
    for write in writes(decoder, LAYER):
        assert write.norm is not None
        wrote: list[Tensor] = []
        hook = write.norm.module.register_forward_hook(lambda _module, _args, out, wrote=wrote: wrote.append(out))
        with captured(write.matrix.module) as inputs:
            decoder.step(LAYER, h, calls)
        hook.remove()
        made = write.given(inputs[0].flatten(0, -2)) @ write.own
        close = 1e-5 if dtype == torch.float32 else 0.05
        assert torch.allclose(made.view_as(wrote[0]), wrote[0].float(), rtol=close, atol=close)


@pytest.mark.parametrize("family", NORMED)
def test_they_are_refit_and_not_folded(family: str) -> None:
    with pytest.raises(ModelError, match=rf"repair of family {family}.*choose a preset that repairs nothing"):
        check_writes(make(family))
    assert refit_support(make(family))


@pytest.mark.parametrize("which", ["post_attention_layernorm", "post_feedforward_layernorm"])
@pytest.mark.parametrize("how", ["another norm", "a factor behind"])
def test_a_norm_that_is_another_is_found_out_by_trying(which: str, how: str) -> None:
    decoder = make("gemma2")
    module = decoder.layers[0].get_submodule(which)
    if how == "another norm":
        module.register_forward_pre_hook(lambda _module, args: (args[0] - args[0].mean(-1, keepdim=True),))
    else:
        module.register_forward_hook(lambda _module, _args, out: out + 1)
    assert not refit_support(decoder)


@torch.no_grad()
@pytest.mark.parametrize("layerwise", NORMED, indirect=True)
def test_a_step_is_the_regression_of_what_the_layer_misses(layerwise: LayerwisePass) -> None:
    """Written plainly: A/rms(y) toward what is missing, divided by what the norm scales by; the scale grows as rms."""
    decoder, layer = layerwise.decoder, layerwise.decoder.layers[LAYER]
    target = dict(decoder.states(windows(64).ids))[STOP]
    h, calls = decoder.embed(windows(64).ids)
    for one in range(LAYER):
        h = decoder.step(one, h, calls)
    _, write = writes(decoder, LAYER)
    assert write.norm is not None
    with captured(write.matrix.module) as inputs:
        missing = target - decoder.step(LAYER, h, calls)
    weight = write.matrix.matrix(layer.get_parameter(write.matrix.parameter))
    scale = write.norm.scale(layer.get_parameter(write.norm.parameter))
    a = inputs[0].view(64, 32, -1)
    short = a / (a @ weight).square().mean(-1, keepdim=True).sqrt()
    damped = scale / (scale.square() + (DAMPING * scale.abs().median()).square())
    x = best_ridge(short, missing, 1 / target.norm(dim=-1)).float() * damped
    counts = (1 / target.norm(dim=-1))[:-HELD_OUT]
    squares = (short @ (weight + x)).square().mean(-1)[:-HELD_OUT]
    grown = ((counts * squares).sum() / counts.sum()).sqrt()
    solution, change = refit_write(layerwise)
    assert change is None
    assert solution.after == pytest.approx(held_out_error(layerwise), rel=1e-6)
    assert solution.after < solution.before
    assert torch.allclose(layerwise.parameter(write.matrix.parameter), write.matrix.weight(weight + x), atol=1e-3)
    new = write.norm.scale(layerwise.parameter(write.norm.parameter))
    assert torch.allclose(new, grown * scale, rtol=1e-3)


@torch.no_grad()
def test_a_step_that_is_none_changes_nothing(layerwise: LayerwisePass) -> None:
    _, write = writes(layerwise.decoder, LAYER)
    fit, _ = two_grams(write.own.shape, write.own.device)
    with captured(write.matrix.module) as inputs:
        for number, _, calls in layerwise.batches():
            layerwise.run(number, calls)()
    for a in inputs:
        fit.add(write.given(a.flatten(0, -2)), torch.zeros(a[..., 0].numel(), write.own.shape[1]))
    for name, value in write.moved(torch.zeros_like(write.own), fit, torch.float32).items():
        assert torch.allclose(value, layerwise.parameter(name), rtol=1e-4, atol=1e-4), name


@torch.no_grad()
@pytest.mark.parametrize("helps", [*STEPS, None])
def test_the_first_share_of_a_step_that_helps_is_taken(
    layerwise: LayerwisePass, helps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held_out_error(layerwise)
    errors = iter([before + 1.0] * (len(STEPS) if helps is None else STEPS.index(helps)) + [before / 2] * 9)
    monkeypatch.setattr("lowrise.edit.writing.held_out_error", lambda _site: next(errors))
    _, write = writes(layerwise.decoder, LAYER)
    fit, _ = sums(layerwise, write, weight_of)
    solution, _ = refit_write(layerwise)
    taken = write.moved(solution.change, fit, torch.float32)
    if helps is None:
        assert (solution.ridge, solution.before) == (None, solution.after)
        taken = {name: layerwise.decoder.layers[LAYER].get_parameter(name) for name in taken}
    else:
        assert solution.after == before / 2
        assert float(solution.change.norm()) == pytest.approx(
            helps * float(whole_step(layerwise.decoder).norm()), rel=1e-5
        )
    assert all(torch.allclose(layerwise.parameter(name), value, rtol=1e-5) for name, value in taken.items())


def whole_step(decoder: Decoder) -> Tensor:
    with ActivationStore() as store:
        made = LayerwisePass(Student(decoder, without(3)), windows(64), HELD_OUT, store, LAYER, mixed=False)
        for number, _, calls in made.batches():
            made.dense(number, calls)
        return solve(*sums(made, writes(decoder, LAYER)[1], weight_of)).change


@torch.no_grad()
@pytest.mark.parametrize("gap", [True, False])
def test_the_error_of_attentions_step_is_measured(layerwise: LayerwisePass, gap: bool) -> None:
    """Before a gap of what leaves the layer, else of the stream behind attention."""
    decoder = layerwise.decoder
    with ActivationStore() as store:
        made = LayerwisePass(
            Student(decoder, without(3) if gap else without(1)), windows(64), HELD_OUT, store, 0, mixed=False
        )
        while made.layer < LAYER:
            made.pass_on()
        _pass_dense(made, True, [])
        solution = _refit_attention_write(made)
        assert solution.after < solution.before
        if gap:
            assert solution.after == pytest.approx(held_out_error(made), rel=1e-5)
            return
        write = attention_of(decoder.layer(LAYER), made.parameter)
        total = 0.0
        for number, calls in made.held_out():
            with captured(decoder.layers[LAYER]) as entering, captured(write.matrix.module) as heads:
                made.run(number, calls)()
            target = made.get("attended", number)
            wrote = write.given(heads[0].flatten(0, -2)) @ write.own
            missing = target - entering[0] - wrote.view_as(target)
            total += float((missing.square().sum(-1) * weight_of(target)).sum())
        assert solution.after == pytest.approx(total / (HELD_OUT * 32), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", NORMED)
@pytest.mark.parametrize("small", [0.03, 0.003, 0.0])
def test_one_small_scale_does_not_spoil_the_step(family: str, small: float) -> None:
    shares = []
    for scale in (None, small):
        decoder = make(family)
        norm = mlp_of(decoder.layer(LAYER), decoder.layer(LAYER).parameter).norm
        assert norm is not None
        if scale is not None:
            weight = decoder.layers[LAYER].get_parameter(norm.parameter)
            v = norm.scale(weight)
            v[0] = scale
            weight.copy_(norm.weight(v))
        with ActivationStore() as store:
            made = LayerwisePass(Student(decoder, without(3)), windows(64), HELD_OUT, store, LAYER, mixed=False)
            for number, _, calls in made.batches():
                made.dense(number, calls)
            solution, _ = refit_write(made)
        assert solution.ridge is not None
        shares.append(solution.after / solution.before)
    assert shares[1] < 0.5 + 0.5 * shares[0]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", NORMED)
def test_norms_are_known_whatever_the_precision_and_however_little_they_let_through(
    family: str, dtype: torch.dtype
) -> None:
    decoder = make(family, dtype)
    norm = mlp_of(decoder.layer(0), decoder.layer(0).parameter).norm
    assert norm is not None
    weight = decoder.layers[0].get_parameter(norm.parameter)
    weight.copy_(norm.weight(0.03 * norm.scale(weight)))
    assert refit_support(decoder)


class _WithoutWeight(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [_WithoutWeight(), torch.nn.LayerNorm(32)], ids=["without a weight", "with a bias"])
def test_a_norm_of_another_kind_is_no_error(norm: torch.nn.Module, dtype: torch.dtype) -> None:
    decoder = make("gemma2", dtype)
    for layer in decoder.layers:
        layer.post_feedforward_layernorm = copy.deepcopy(norm).to(dtype)
    assert not refit_support(decoder)


@torch.no_grad()
@pytest.mark.parametrize("family", NORMED)
def test_a_cut_is_repaired(family: str) -> None:
    decoder, tokens = make(family), windows(64)
    student, fresh = Student(decoder, without(2, 3)), windows(16, seed=1)
    targets = dict(decoder.states(fresh.ids))

    def apart() -> float:
        """From the dense model's last state, of tokens that nothing was fitted to."""
        h, calls = decoder.embed(fresh.ids)
        for layer in student.layers:
            h = student.step(layer, h, calls)
        return float(((h - targets[tiny.LAYERS]).square().sum(-1) * weight_of(targets[tiny.LAYERS])).mean())

    dropped = apart()
    fits = repair(student, tokens, HELD_OUT, "refit", QUIET)
    assert [(fit.layer, fit.written, fit.neurons) for fit in fits] == [(one, True, 0) for one in (1, 4, 5)]
    assert all(fit.after < fit.before for fit in fits)  # type: ignore[operator]
    assert apart() < 0.7 * dropped


@torch.no_grad()
@pytest.mark.parametrize("family", NORMED[:3])
def test_where_writes_are_unknown_reads_alone_are_refit_and_gaps_descend(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowrise.model.refittable.norms_as_known", lambda _decoder: False)
    decoder, tokens = make(family), windows(64)
    before = copy.deepcopy(decoder.layers.state_dict())
    first, *others = repair(Student(decoder, without(2)), tokens, HELD_OUT, "refit", QUIET)
    assert (first.layer, first.stop, first.ridge, first.descended, first.written) == (1, 3, None, True, False)
    assert first.after < first.before  # type: ignore[operator]
    assert {(fit.before, fit.after, fit.neurons, fit.descended, fit.written) for fit in others} == {
        (None, None, 0, False, False)
    }
    assert [fit.layer for fit in others] == [3, 4, 5]
    changed = {name for name, value in decoder.layers.state_dict().items() if not torch.equal(value, before[name])}
    read = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert {name.split(".")[-2] for name in changed if not name.startswith("1.")} == read
    assert {name for name in before if name.startswith("1.")} <= changed  # all of the layer before the gap
    assert {int(name.partition(".")[0]) for name in changed} <= {1, 3, 4, 5}
