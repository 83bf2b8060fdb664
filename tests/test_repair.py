"""Closed-form repairs against naive references with every activation stored, on tiny models of every kind of MLP."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GraniteConfig

import tiny
from lowrise.calibration import Windows
from lowrise.edit.repair import gaps, repair
from lowrise.edit.student import Student, student_of
from lowrise.edit.writing import refit_write
from lowrise.errors import ModelError
from lowrise.measure.perplexity import perplexity
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import check_refit, check_writes, mlp_write, reads
from lowrise.plan import Drop, Merge
from lowrise.progress import Reporter
from lowrise.select.repaired import choose_repaired, choose_repaired_span
from naive import apart, naive_adopt, naive_fold, naive_refit, through
from ridges import HELD_OUT, best_ridge

QUIET = Reporter(quiet=True)
FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi3"]  # plain, biased, transposed, parallel, fused
LAYER_NORMED = ["gpt2", "gpt_neox", "opt"]
NORMED = ["gemma2", "gemma3_text", "olmo2"]


@functools.cache
def original(family: str) -> Any:
    return tiny.model(family)


def make(family: str) -> Decoder:
    return Decoder(copy.deepcopy(original(family)))


def windows(rows: int = 16, seed: int = 0) -> Windows:
    return Windows(tiny.ids(rows, 32, seed), "test", 0)


def without(*gone: int) -> list[int]:
    return [layer for layer in range(tiny.LAYERS) if layer not in gone]


@pytest.mark.usefixtures("regressions_alone")
@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold"])
@pytest.mark.parametrize("family", FAMILIES)
def test_repairs_bottom_up_as_the_naive_way_does(family: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.edit.repair.neurons_apart", lambda _decoder: False)  # see test_neurons.py
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
        reading = {matrix.parameter for group in reads(naive, layer) for matrix in group}
        for name, other in naive.layers[layer].named_parameters():
            share = (ours.layers[layer].get_parameter(name) - other).norm() / other.norm()
            assert share < 1e-2 or (family in LAYER_NORMED and name in reading), (layer, name)
    assert [(fit.layer, fit.stop) for fit in fits] == ([(0, 2), (2, 5), (5, 6)] if how == "refit" else [(0, 2), (2, 5)])
    if how == "refit":
        assert all(fit.after <= fit.before for fit in fits)


@torch.no_grad()
def test_a_gap_at_the_bottom_is_made_up_for_by_what_is_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.edit.repair.neurons_apart", lambda _decoder: False)
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
        patched.setattr("lowrise.edit.repair.check_refit", lambda _decoder: False)  # reads alone
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
OTHERS: dict[str, tuple[dict[str, Any], bool]] = {  # settings; whether writes are solved too
    "GlmConfig": ({"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 1}, True),
    "Glm4Config": ({"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 1}, False),
    "PhiConfig": ({"intermediate_size": 48}, True),
    "Starcoder2Config": ({"intermediate_size": 48, "num_key_value_heads": 2}, True),
    "NemotronConfig": ({"intermediate_size": 48, "num_key_value_heads": 2}, True),
    "FalconConfig": ({"new_decoder_architecture": False}, True),
    "GPTJConfig": ({"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}, True),
    "GPTNeoXConfig": ({"intermediate_size": 48, "use_parallel_residual": False}, True),
}


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_refit_too(name: str) -> None:
    settings, writes = OTHERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SMALL, **settings, bos_token_id=0, eos_token_id=1)
    decoder = Decoder(AutoModelForCausalLM.from_config(config).eval())
    assert check_refit(decoder) is writes
    before = copy.deepcopy(decoder.layers.state_dict())
    fits = repair(Student(decoder, [0, 1, 3]), windows(64), HELD_OUT, "refit", QUIET)
    assert [(fit.layer, fit.before is not None) for fit in fits] == [(1, writes), (3, writes)]
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
    enter = decoder.enter

    def watched(ids: torch.Tensor) -> Any:
        seen.add(ids.shape[1])
        return enter(ids)

    monkeypatch.setattr(decoder, "enter", watched)
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


@pytest.mark.parametrize("family", NORMED)
def test_a_norm_behind_the_matrix_is_told_by_name(family: str) -> None:
    with pytest.raises(
        ModelError,
        match=rf"repair of family {family}.*post_feedforward_layernorm.*choose a preset that repairs nothing",
    ):
        check_writes(make(family))
    assert not check_refit(make(family))


@torch.no_grad()
@pytest.mark.parametrize("family", NORMED)
def test_where_a_norm_stands_behind_writes_reads_alone_are_refit(family: str) -> None:
    decoder, tokens = make(family), windows(64)
    before = copy.deepcopy(decoder.layers.state_dict())
    student = Student(decoder, without(2))
    fits = repair(student, tokens, HELD_OUT, "refit", QUIET)
    assert {(fit.ridge, fit.before, fit.after, fit.neurons) for fit in fits} == {(None, None, None, 0)}
    assert [fit.layer for fit in fits] == [1, 3, 4, 5]
    changed = {name for name, value in decoder.layers.state_dict().items() if not torch.equal(value, before[name])}
    read = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert {name.split(".")[-2] for name in changed} == read
    assert {int(name.partition(".")[0]) for name in changed} <= {3, 4, 5}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_matrix_that_writes_as_it_is_passes_the_trial(family: str, dtype: torch.dtype) -> None:
    decoder = make(family)
    decoder.model.to(dtype)
    check_writes(decoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_scaled_write_is_found_out_by_trying(dtype: torch.dtype) -> None:
    config = GraniteConfig(**{**tiny.FAMILIES["llama"][1], "residual_multiplier": 0.22, "pad_token_id": 0})
    decoder = Decoder(AutoModelForCausalLM.from_config(config).eval().to(dtype))
    with pytest.raises(ModelError, match=r"repair of family granite: .* added to the stream as it is, found one that"):
        check_writes(decoder)


def test_the_search_keeps_its_shortlist_full_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.select.repaired.SHORTLIST", 2)
    choice = choose_repaired(make("llama"), windows(4), windows(2, seed=1), tiny.LAYERS - 1, 1, QUIET)
    assert sorted(choice.scores["layers"]) == list(range(1, tiny.LAYERS))
    tried = [sum(loss is not None for loss in one["losses"]) for one in choice.scores["rounds"]]
    assert tried == [2, 2, 2, 2, 1]


def test_the_search_shortlists_by_what_a_layer_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divergence grows from round to round: a layer that was tried late would look worse than one tried early."""
    adds = {1: 0.1, 2: 0.2, 3: 0.25, 4: 0.28, 5: 0.33}
    removed: list[int] = []

    def trials(_search: Any, candidates: list[int], _bar: Any, **_how: Any) -> dict[int, Any]:
        reached = sum(adds[layer] for layer in removed)
        return {one: SimpleNamespace(loss=0.0, divergence=reached + adds[one]) for one in candidates}

    monkeypatch.setattr("lowrise.select.repaired.SHORTLIST", 2)
    monkeypatch.setattr("lowrise.select.repaired._Search.trials", trials)
    monkeypatch.setattr("lowrise.select.repaired._Search.remove", lambda _search, gone, _trial: removed.append(gone))
    choice = choose_repaired(make("llama"), windows(4), windows(2, seed=1), 3, 1, QUIET)
    tried = [[n for n, value in enumerate(one["losses"]) if value is not None] for one in choice.scores["rounds"]]
    assert tried == [[1, 2], [2, 3], [3, 4]]


def test_the_search_solves_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial far enough below the gap that was made last would be what it was before it."""
    monkeypatch.setattr("lowrise.select.repaired.neurons_apart", lambda _decoder: False)
    solved: list[int] = []

    def counted(place: Any, ridges: Any) -> Any:
        solved.append(place.layer)
        return refit_write(place, ridges)

    monkeypatch.setattr("lowrise.select.repaired.refit_write", counted)
    choice = choose_repaired(make("llama"), windows(4), windows(2, seed=1), 2, 1, QUIET)
    gone = choice.scores["rounds"][0]["removed"]
    again = [one for one in range(1, tiny.LAYERS) if one >= gone - 1 and one != gone]
    assert solved == [*range(tiny.LAYERS - 1), *(one - 1 if one - 1 != gone else gone - 1 for one in again)]


def test_the_search_sees_many_documents_and_short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of windows longer than it needs, the first part of each; every other one of those is cut short."""
    monkeypatch.setattr("lowrise.select.repaired.LENGTH", 16)
    monkeypatch.setattr("lowrise.calibration.tokens.SHORT", 8)
    monkeypatch.setattr("lowrise.select.repaired.FIT_TOKENS", 128)
    monkeypatch.setattr("lowrise.select.repaired.HELD_OUT_TOKENS", 64)
    decoder, fitted, deciding = make("llama"), windows(8), windows(4, seed=1)
    seen, enter = set(), decoder.enter

    def watched(ids: torch.Tensor) -> Any:
        seen.update((len(row), tuple(row[:8].tolist())) for row in ids)
        return enter(ids)

    monkeypatch.setattr(decoder, "enter", watched)
    choose_repaired(decoder, fitted, deciding, 1, 1, QUIET)
    firsts = [tuple(row[:8].tolist()) for rows in (fitted.ids, deciding.ids) for row in rows]
    assert {start for length, start in seen if length == 16} == set(firsts[::2])
    assert {start for length, start in seen if length == 8} > set(firsts[1::2])


def divergence(dense: Decoder, decoder: Decoder, layers: list[int], tokens: Windows) -> float:
    """Mean KL over positions of the dense model's 64 likeliest tokens and all the others as one."""
    h, calls = decoder.enter(tokens.ids)
    for layer in layers:
        h = decoder.step(layer, h, calls)
    q = decoder.leave(h, tokens.ids).double().softmax(-1)[:, :-1]
    p = dense.model(input_ids=tokens.ids).logits.double().softmax(-1)[:, :-1]
    top = p.topk(64).indices
    p, q = (torch.cat([one.gather(-1, top), 1 - one.gather(-1, top).sum(-1, keepdim=True)], -1) for one in (p, q))
    return float((p * (p / q).log()).sum(-1).mean())


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_search_takes_what_trying_every_layer_takes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a naive search: a copy a trial, repaired in place, its loss measured from the embeddings."""
    moves = family == "llama"
    monkeypatch.setattr("lowrise.select.repaired.neurons_apart", lambda _decoder: moves)
    ridges, moved = (1e-2, 1e-1, 1.0), 0
    decoder, tokens, deciding = make(family), windows(12), windows(4, seed=1)
    choice = choose_repaired(decoder, tokens, deciding, 3, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    kept, model = without(), copy.deepcopy(decoder.model)
    for round_ in choice.scores["rounds"]:
        losses, divergences, models = {}, {}, {}
        for gone in kept[1:]:
            trial = Decoder(copy.deepcopy(model))
            left = [layer for layer in kept if layer != gone]
            before = kept[kept.index(gone) - 1]
            # only the layer before the one that goes is changed, toward the state of the dense model
            stop = next((layer for layer in left if layer > gone), tiny.LAYERS)
            target = dict(decoder.states(both.ids))[stop]
            below = left[: left.index(before) + 1]
            if moves and naive_adopt(trial, decoder, below, gone, torch.arange(48), both, target, ridges):
                moved += 1
            else:
                write = mlp_write(trial, before)
                a, out = through(trial, below, both, write.module)
                change = best_ridge(a, target - out, 1 / target.norm(dim=-1), ridges).float()
                trial.layers[before].get_parameter(write.parameter).add_(write.weight(change))
            losses[gone], models[gone] = Student(trial, left).loss(deciding), trial.model
            divergences[gone] = divergence(decoder, trial, left, deciding)
        assert round_["losses"] == pytest.approx([losses.get(layer) for layer in range(tiny.LAYERS)], abs=1e-4)
        all_of_them = [divergences.get(layer) for layer in range(tiny.LAYERS)]
        assert round_["divergences"] == pytest.approx(all_of_them, abs=1e-4)
        removed = min(divergences, key=lambda layer: divergences[layer])
        assert round_["removed"] == removed
        kept.remove(removed)
        model = models[removed]
    assert bool(moved) is moves
    assert choice.scores["loss"]["dense"] == pytest.approx(perplexity(decoder, deciding, QUIET)["loss"], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_search_for_a_span_takes_what_trying_every_span_takes(family: str) -> None:
    """A copy a trial; where writes cannot be solved, a trial is a drop."""
    decoder, tokens, deciding = make(family), windows(12), windows(4, seed=1)
    choice = choose_repaired_span(decoder, tokens, deciding, 2, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    losses: list[float | None] = [None]
    divergences: list[float | None] = [None]
    for start in range(1, tiny.LAYERS - 1):
        trial, left = Decoder(copy.deepcopy(decoder.model)), without(start, start + 1)
        if family not in NORMED:
            write, target = mlp_write(trial, start - 1), dict(decoder.states(both.ids))[start + 2]
            a, out = through(trial, list(range(start)), both, write.module)
            change = best_ridge(a, target - out, 1 / target.norm(dim=-1), (1e-2, 1e-1, 1.0)).float()
            trial.layers[start - 1].get_parameter(write.parameter).add_(write.weight(change))
        losses.append(Student(trial, left).loss(deciding))
        divergences.append(divergence(decoder, trial, left, deciding))
    assert choice.scores["losses"] == pytest.approx(losses, abs=1e-4)
    assert choice.scores["divergences"] == pytest.approx(divergences, abs=1e-4)
    best = min(range(1, len(divergences)), key=lambda start: divergences[start] or 0.0)
    assert choice.spans == [(best, best + 2)]
    assert choice.scores["loss"]["after"] == choice.scores["losses"][best]


def test_the_search_for_a_span_changes_nothing_and_never_takes_the_first_layer() -> None:
    decoder = make("llama")
    before = copy.deepcopy(decoder.model.state_dict())
    choice = choose_repaired_span(decoder, windows(4), windows(2, seed=1), tiny.LAYERS - 1, 1, QUIET)
    assert choice.spans == [(1, tiny.LAYERS)]
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
