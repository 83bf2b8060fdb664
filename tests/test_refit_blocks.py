"""Refit of mixtures of experts against ridge regressions written plainly, on tiny random models."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import mixtures
import tiny
from lowrise.edit import block_writing
from lowrise.edit.block_write import BlockWrite
from lowrise.edit.block_writing import refit_last_write
from lowrise.edit.gram import Gram
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.repair import gaps
from lowrise.edit.student import Student
from lowrise.edit.writing import held_out_error
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from repairs import repair
from ridges import HELD_OUT, best_ridge
from tiny import windows, without

QUIET = Reporter(quiet=True)
LAYER, STOP = 2, 4


@pytest.fixture
def layerwise(request: pytest.FixtureRequest) -> Iterator[LayerwisePass]:
    """Before the gap [3, 4) of a tiny mixture, the dense model behind it."""
    decoder = mixtures.decoder(getattr(request, "param", "mixtral"))
    with torch.no_grad(), ActivationStore() as store:
        made = LayerwisePass(Student(decoder, without(3)), windows(64), HELD_OUT, store, LAYER, mixed=False)
        for number, _, calls in made.batches():
            made.dense(number, calls)
        yield made


def plainly(decoder: Decoder) -> tuple[Tensor, Tensor, Tensor]:
    """(what the four experts of a mixtral are given side by side, 0 where a token does not come to one, what leaves the
    layer, h[STOP]), all (windows, tokens, ·).
    """
    mlp, tokens = decoder.layers[LAYER].mlp, windows(64)
    target = dict(decoder.states(tokens.ids))[STOP]
    h, calls = decoder.embed(tokens.ids)
    for one in range(LAYER):
        h = decoder.step(one, h, calls)
    seen: list[Tensor] = []
    hook = mlp.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    out = decoder.step(LAYER, h, calls)
    hook.remove()
    x = seen[0].flatten(0, 1)
    _, weights, chosen = mlp.gate(x)
    given = []
    for expert in range(4):
        gate, up = (x @ mlp.experts.gate_up_proj[expert].T).chunk(2, -1)
        weight = (weights * (chosen == expert)).sum(-1, keepdim=True)
        given.append(weight * torch.nn.functional.silu(gate) * up)
    return torch.cat(given, 1).view(64, 32, -1), out, target


def down(decoder: Decoder) -> Tensor:
    """(4·k, d): the experts' last matrices, one below the other."""
    own: Tensor = decoder.layers[LAYER].mlp.experts.down_proj
    return own.detach().transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def test_experts_are_solved_together_as_one_ridge_regression(layerwise: LayerwisePass) -> None:
    a, out, target = plainly(layerwise.decoder)
    x = best_ridge(a, target - out, 1 / target.norm(dim=-1)).float()
    expected = down(layerwise.decoder) + x
    found = refit_last_write(layerwise, lambda: held_out_error(layerwise))
    made = layerwise.parameter("mlp.experts.down_proj").transpose(1, 2).flatten(0, 1)
    assert torch.allclose(made, expected, atol=1e-4)
    assert found.after == pytest.approx(held_out_error(layerwise), rel=1e-4)
    assert found.after < found.before and found.experts == 4


@torch.no_grad()
def test_where_memory_is_short_experts_are_solved_one_after_the_other_in_two_rounds(
    layerwise: LayerwisePass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockWrite, "packs", lambda self: [[unit] for unit in self.units()])
    a, out, target = plainly(layerwise.decoder)
    missing, k = target - out, a.shape[-1] // 4
    x = torch.zeros(4 * k, 32)
    for _ in range(block_writing.ROUNDS):
        for expert in range(4):
            rows = slice(k * expert, k * (expert + 1))
            more = best_ridge(a[..., rows], missing, 1 / target.norm(dim=-1)).float()
            missing, x[rows] = missing - a[..., rows] @ more, x[rows] + more
    expected = down(layerwise.decoder) + x
    found = refit_last_write(layerwise, lambda: held_out_error(layerwise))
    made = layerwise.parameter("mlp.experts.down_proj").transpose(1, 2).flatten(0, 1)
    assert torch.allclose(made, expected, atol=1e-4)
    assert found.after == pytest.approx(held_out_error(layerwise), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layerwise", ["gpt_oss"], indirect=True)
def test_an_expert_that_no_token_comes_to_stays_and_is_counted(layerwise: LayerwisePass) -> None:
    mlp = layerwise.decoder.layers[LAYER].mlp
    mlp.router.bias[3] = -1e4
    before = mlp.experts.down_proj.clone()
    found = refit_last_write(layerwise, lambda: held_out_error(layerwise))
    after = layerwise.parameter("mlp.experts.down_proj")
    assert torch.equal(after[3], before[3])
    assert not any(torch.equal(after[expert], before[expert]) for expert in range(3))
    assert (found.experts, found.few) == (4, 1)


@torch.no_grad()
@pytest.mark.parametrize("layerwise", [*sorted(mixtures.FAMILIES), "gemma4_text", "lfm2"], indirect=True)
def test_a_write_meets_held_out_tokens_as_it_says(layerwise: LayerwisePass) -> None:
    before = held_out_error(layerwise)
    found = refit_last_write(layerwise, lambda: held_out_error(layerwise))
    assert found.before == pytest.approx(before, rel=1e-3)
    assert found.after == pytest.approx(held_out_error(layerwise), rel=1e-3)
    assert found.after < found.before


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    ["mixtral", "qwen2_moe", "flex_olmo", "cohere2_moe", "deepseek_v3", "llama4_text", "mamba", "lfm2", "bert"],
)
def test_held_out_error_is_never_worse_and_routers_are_left_alone(family: str) -> None:
    decoder = mixtures.decoder(family)
    kept = without(1, 3, 4)
    student = Student(decoder, kept)
    before = copy.deepcopy(decoder.layers.state_dict())
    assert gaps(student) == [(0, 2), (2, 5)]
    fits = repair(student, windows(32), HELD_OUT, "refit", QUIET)
    assert [fit.layer for fit in fits] == kept
    assert all(fit.after <= fit.before for fit in fits)
    assert fits[0].after < fits[0].before and fits[0].written == (family != "bert")
    for name, value in decoder.layers.state_dict().items():
        layer, _, path = name.partition(".")
        stays = "mlp.gate.weight" in path or "shared_expert_gate" in path or int(layer) not in kept
        assert torch.equal(value, before[name]) or not stays, name


@torch.no_grad()
def test_a_fold_maps_what_all_experts_make_together() -> None:
    decoder = mixtures.decoder("mixtral")
    a, out, target = plainly(decoder)
    own, rest = down(decoder), target - out
    made = (a @ own)[:-HELD_OUT].flatten(0, 1).double()
    turn = torch.linalg.lstsq(made, made + rest[:-HELD_OUT].flatten(0, 1).double()).solution
    (fit,) = repair(Student(decoder, without(3)), windows(64), HELD_OUT, "fold", QUIET)
    assert torch.allclose(down(decoder), own @ turn.float(), atol=1e-4)
    left = (rest + a @ own - a @ down(decoder))[-HELD_OUT:]
    assert fit.after == pytest.approx(float(left.square().sum(-1).mean()), rel=1e-3)


@torch.no_grad()
def test_a_fold_for_directions_brings_them_together() -> None:
    (fit,) = repair(Student(mixtures.decoder("qwen2_moe"), without(3)), windows(24), HELD_OUT, "fold-cosine", QUIET)
    assert fit.after < fit.before


@torch.no_grad()
def test_what_makes_held_out_tokens_worse_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(layerwise: LayerwisePass) -> tuple[float, float]:
        layerwise.set_weights({"mlp.experts.down_proj": 100 * layerwise.parameter("mlp.experts.down_proj")})
        return 0.0, 0.0

    monkeypatch.setattr("lowrise.edit.refit_blocks.reconstruct_block", spoil)
    decoder = mixtures.decoder("mixtral")
    before = copy.deepcopy(decoder.layers[LAYER].state_dict())
    first, *_ = repair(Student(decoder, without(3)), windows(16), HELD_OUT, "refit", QUIET)
    assert (first.layer, first.ridge, first.experts) == (LAYER, None, 0) and first.after == first.before
    for name, value in decoder.layers[LAYER].state_dict().items():
        assert torch.equal(value, before[name])


def test_sums_of_inputs_side_by_side_are_those_of_all_with_nothing_between() -> None:
    torch.manual_seed(0)
    e, weight = torch.randn(20, 3), torch.rand(20)
    tokens = (torch.tensor([1, 5, 6, 12]), torch.tensor([0, 5, 12, 13, 19]), None)
    parts = [(torch.randn(20 if one is None else len(one), 4), one) for one in tokens]
    whole = torch.zeros(20, 12)
    for place, (given, one) in enumerate(parts):
        whole[slice(None) if one is None else one, 4 * place : 4 * place + 4] = given
    ours, plain = Gram(12, 3, torch.device("cpu")), Gram(12, 3, torch.device("cpu"))
    ours.add_parts(parts, e, weight)
    plain.add(whole, e, weight)
    assert torch.allclose(ours.inputs, plain.inputs, atol=1e-5) and torch.allclose(ours.cross, plain.cross, atol=1e-5)
    assert (ours.tokens, ours.squares) == (plain.tokens, pytest.approx(plain.squares))


def test_models_here_are_those_that_no_row_names() -> None:
    assert not set(mixtures.FAMILIES) & set(tiny.FAMILIES)
