"""Closed-form repairs against naive references with every activation stored, on tiny models of every kind of MLP."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GraniteConfig

import tiny
from lowrise.edit.repair import gaps
from lowrise.edit.student import Student, student_of
from lowrise.errors import ModelError
from lowrise.measure.perplexity import perplexity
from lowrise.model import families
from lowrise.model.decoder import Decoder
from lowrise.model.refittable import check_writes, refit_support
from lowrise.plan import Drop, Merge
from lowrise.progress import Reporter
from naive import apart, inputs, naive_fold, naive_refit
from repairs import repair
from ridges import HELD_OUT
from tiny import windows, without

QUIET = Reporter(quiet=True)
FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi3"]  # plain, biased, transposed, parallel, fused
LAYER_NORMED = ["gpt2", "gpt_neox", "opt"]


@functools.cache
def original(family: str) -> Any:
    return tiny.model(family)


def make(family: str) -> Decoder:
    return Decoder(copy.deepcopy(original(family)))


@pytest.mark.usefixtures("regressions_alone")
@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold"])
@pytest.mark.parametrize("family", FAMILIES)
def test_repairs_bottom_up_as_the_naive_way_does(family: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.edit.refit.neurons_apart", lambda _decoder: False)  # see test_neurons.py
    kept, tokens = without(1, 3, 4), windows(64)
    ours, naive = make(family), make(family)
    student = Student(ours, kept)
    assert gaps(student) == [(0, 2), (2, 5)]
    fits = repair(student, tokens, HELD_OUT, how, QUIET)
    {"refit": naive_refit, "fold": naive_fold}[how](naive, kept, tokens)
    assert student.loss(tokens) == pytest.approx(Student(naive, kept).loss(tokens), rel=1e-3)
    assert apart(ours, naive, kept, windows(seed=1)) < 3e-4
    for layer in kept:
        # what reads a layer norm has one direction that rounding decides: of those matrices `apart` says more
        reading = {matrix.parameter for group in inputs(naive, layer) for matrix in group}
        for name, other in naive.layers[layer].named_parameters():
            share = (ours.layers[layer].get_parameter(name) - other).norm() / other.norm()
            assert share < 1e-2 or (family in LAYER_NORMED and name in reading), (layer, name)
    assert [(fit.layer, fit.stop) for fit in fits] == ([(0, 2), (2, 5), (5, 6)] if how == "refit" else [(0, 2), (2, 5)])
    if how == "refit":
        assert all(fit.after <= fit.before for fit in fits)


@torch.no_grad()
def test_a_gap_at_the_bottom_is_made_up_for_by_what_is_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.edit.refit.neurons_apart", lambda _decoder: False)
    kept, tokens = without(0, 1, 4), windows(64)
    ours, naive = make("llama"), make("llama")
    student = Student(ours, kept)
    fits = repair(student, tokens, HELD_OUT, "refit", QUIET)
    naive_refit(naive, kept, tokens)
    assert [fit.layer for fit in fits] == kept
    assert student.loss(tokens) == pytest.approx(Student(naive, kept).loss(tokens), rel=1e-3)
    assert fits[0].after < fits[0].before


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_the_model_that_its_cut_leaves(family: str) -> None:
    decoder, tokens = make(family), windows()
    student = student_of(decoder, [Drop(start=1, stop=2, kind="refit"), Drop(start=3, stop=5, kind="refit")])
    dense = perplexity(decoder, tokens, QUIET)["loss"]
    assert Student(decoder, list(range(tiny.LAYERS))).loss(tokens) == pytest.approx(dense, abs=1e-5)
    assert perplexity(decoder, tokens, QUIET)["loss"] == dense  # nothing of the model was changed
    repair(student, tokens, HELD_OUT, "refit", QUIET)
    assert student.changed == {}  # all of it lies in the layers now
    expected = student.loss(tokens)
    decoder.drop(3, 5)
    decoder.drop(1, 2)
    assert perplexity(decoder, tokens, QUIET)["loss"] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_a_layer_that_writes_nothing_costs_nothing() -> None:
    decoder = make("llama")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        decoder.layers[2].get_submodule(name).weight.zero_()
    student = Student(decoder, without(2))
    before = copy.deepcopy(decoder.layers.state_dict())
    fits = repair(student, windows(), HELD_OUT, "refit", QUIET)
    assert [fit.before for fit in fits] == pytest.approx([0] * 4, abs=1e-6)
    for name, value in decoder.layers.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-5), name


@pytest.mark.usefixtures("regressions_alone")
@torch.no_grad()
def test_a_stream_that_is_turned_is_read_as_it_was() -> None:
    """What is left out only turns the stream and keeps every token's length: reading turns it back, exactly."""
    decoder, tokens = make("llama"), windows(64)
    for layer in decoder.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(1.0)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    decoder.layers[4].register_forward_hook(lambda _module, _args, out: out @ turn)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        decoder.layers[4].get_submodule(name).weight.zero_()
    own = decoder.layers[5].get_parameter("self_attn.q_proj.weight").clone()
    student = Student(decoder, without(4))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lowrise.edit.refit.refit_support", lambda _decoder: False)  # reads alone
        repair(student, tokens, HELD_OUT, "refit", QUIET)
    read = decoder.layers[5].get_parameter("self_attn.q_proj.weight")
    assert torch.allclose(read, own @ turn.T, atol=1e-3)


@torch.no_grad()
def test_bfloat16_stays_what_it_is_and_is_repaired_as_well() -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        decoder = make("llama")
        decoder.model.to(dtype)
        student = Student(decoder, without(2, 3))
        repair(student, windows(64), HELD_OUT, "refit", QUIET)
        assert {value.dtype for value in decoder.layers.state_dict().values()} == {dtype}
        losses[dtype] = student.loss(windows(8, seed=1))
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
OTHERS: dict[str, dict[str, Any]] = {
    "GlmConfig": {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 1},
    "Glm4Config": {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 1},
    "PhiConfig": {"intermediate_size": 48},
    "Starcoder2Config": {"intermediate_size": 48, "num_key_value_heads": 2},
    "NemotronConfig": {"intermediate_size": 48, "num_key_value_heads": 2},
    "GraniteConfig": {"num_key_value_heads": 2, "intermediate_size": 48, "residual_multiplier": 0.22},
    "SmolLM3Config": {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 1},
    "FalconConfig": {"new_decoder_architecture": False},
    "GPTJConfig": {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4},
    "GPTNeoXConfig": {"intermediate_size": 48, "use_parallel_residual": False},
}


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_refit_too(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SMALL, **OTHERS[name], bos_token_id=0, eos_token_id=1)
    decoder = Decoder(AutoModelForCausalLM.from_config(config).eval())
    assert refit_support(decoder)
    before = copy.deepcopy(decoder.layers.state_dict())
    fits = repair(Student(decoder, [0, 1, 3]), windows(64), HELD_OUT, "refit", QUIET)
    assert [(fit.layer, fit.written) for fit in fits] == [(1, True), (3, True)]
    assert any(not torch.equal(value, before[name]) for name, value in decoder.layers.state_dict().items())


@pytest.mark.usefixtures("regressions_alone")
@torch.no_grad()
@pytest.mark.parametrize(("how", "short"), [("refit", 64), ("refit", 8), ("fold", 64), ("fold-cosine", 64)])
def test_how_tokens_are_batched_changes_nothing(how: Any, short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.calibration.tokens.SHORT", short)
    monkeypatch.setattr("lowrise.edit.cosine_map.STEP_TOKENS", 32)
    found = []
    for size in (32, 4096):
        monkeypatch.setattr(Decoder, "batch_tokens", size)
        student = Student(make("qwen2"), without(2, 3))
        repair(student, windows(), HELD_OUT, how, QUIET)
        found.append(student.loss(windows(seed=1)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("how", "lengths"), [("refit", {16, 32}), ("fold", {32}), ("fold-cosine", {32})])
def test_refit_sees_short_windows_too(how: Any, lengths: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """ReplaceMe's own maps are fitted on the windows as they are."""
    monkeypatch.setattr("lowrise.calibration.tokens.SHORT", 16)
    decoder, seen = make("llama"), set()
    embed = decoder.embed

    def watched(ids: torch.Tensor) -> Any:
        seen.add(ids.shape[1])
        return embed(ids)

    monkeypatch.setattr(decoder, "embed", watched)
    repair(Student(decoder, without(2)), windows(), HELD_OUT, how, QUIET)
    assert seen & {16, 32} == lengths


@torch.no_grad()
def test_a_merged_layer_is_repaired_from_its_mix() -> None:
    decoder, tokens = make("llama"), windows(64)
    student = student_of(decoder, [Merge(start=1, stop=3, rule="mean", repair="refit")])
    plain = student.changed[1]["mlp.down_proj.weight"].clone()
    fit, *_ = repair(student, tokens, HELD_OUT, "fold", QUIET)
    assert (fit.layer, fit.stop) == (1, 3)
    assert student.changed == {}
    now = decoder.layers[1].get_parameter("mlp.down_proj.weight")
    folded = torch.linalg.lstsq(plain.T.double(), now.T.double())
    assert torch.allclose((plain.T.double() @ folded.solution).float(), now.T, atol=1e-4)  # the mix, turned


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_matrix_that_writes_as_it_is_passes_the_trial(family: str, dtype: torch.dtype) -> None:
    decoder = make(family)
    decoder.model.to(dtype)
    check_writes(decoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_scaled_write_is_found_out_by_trying(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a family whose row says nothing of it."""
    monkeypatch.setitem(families.FAMILIES, "granite", families.FAMILIES["llama"])
    with pytest.raises(ModelError, match=r"repair of family granite: .* added to the stream as it is, found one that"):
        check_writes(Decoder(granite(0.22).to(dtype)))


@pytest.mark.parametrize(("how", "family"), [("refit", "granite"), ("fold", "granite"), ("refit", "another")])
@torch.no_grad()
def test_a_factor_is_as_good_as_larger_matrices(how: Any, family: str) -> None:
    """Known by name, or by the layer's attribute."""
    losses = []
    for factor in (0.25, 1.0):
        decoder = Decoder(granite(factor))
        decoder.config.model_type = family
        for layer in decoder.layers:
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                layer.get_submodule(name).weight.div_(factor)
        assert refit_support(decoder)
        student = Student(decoder, without(2, 3))
        fits = repair(student, windows(64), HELD_OUT, how, QUIET)
        assert fits[0].after < fits[0].before  # type: ignore[operator]
        losses.append(student.loss(windows(8, seed=1)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@torch.no_grad()
def test_a_factor_rounds_no_weight_that_does_not_change() -> None:
    write = Decoder(granite(0.22).to(torch.bfloat16)).layer(1).mlp_write
    weight = write.module.get_parameter("weight")
    own = write.matrix(weight).float()
    again, change = write.moved(own, torch.zeros_like(own), torch.bfloat16)
    assert torch.equal(again, weight)
    assert not change.any()


def granite(factor: float) -> Any:
    torch.manual_seed(0)
    config = GraniteConfig(**{**tiny.FAMILIES["llama"][1], "residual_multiplier": factor, "pad_token_id": 0})
    return AutoModelForCausalLM.from_config(config).eval()
