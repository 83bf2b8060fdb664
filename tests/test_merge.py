"""Merge rules against their formulas, on families with plain, biased and fused projections."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import tiny
from lowrise.edit.merge import Mix, merge, mix_of
from lowrise.edit.student import student_of
from lowrise.errors import PlanError
from lowrise.model.decoder import Decoder
from lowrise.model.same_architecture import layer_groups
from lowrise.plan import Merge, rule_weights

FAMILIES = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "olmo2"]
PLAIN = {"qwen2": {"use_sliding_window": False}}


def made(family: str, dtype: torch.dtype = torch.float32) -> Decoder:
    return Decoder(tiny.model(family, **PLAIN.get(family, {})).to(dtype))


def weights_of(decoder: Decoder) -> list[dict[str, torch.Tensor]]:
    return [{name: p.detach().clone() for name, p in layer.named_parameters()} for layer in decoder.layers]


def is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in f".{name}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["sum", "last", "mean"])
def test_each_rule_is_its_formula(family: str, rule: Any) -> None:
    decoder = made(family)
    before = weights_of(decoder)
    merge(decoder, Merge(start=1, stop=4, rule=rule))
    after = weights_of(decoder)
    assert len(decoder) == decoder.config.num_hidden_layers == tiny.LAYERS - 2
    for name, value in after[1].items():
        base, rest = before[1][name], [before[layer][name] for layer in (2, 3)]
        if is_norm(name):
            expected = base
        elif rule == "sum":
            expected = base + sum(other - base for other in rest)
        elif rule == "last":
            # the published code's loop: the base that differences are taken to is the one being changed
            expected = base.clone()
            for other in rest:
                expected += other - expected
        else:
            expected = (base + rest[0] + rest[1]) / 3
        assert torch.allclose(value, expected, atol=1e-5), name
    for layer, old in [(0, 0), (2, 4), (3, 5)]:
        assert all(torch.equal(value, before[old][name]) for name, value in after[layer].items())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_matrices_and_biases_change_and_norms_only_when_asked(family: str) -> None:
    changed = {}
    for norms in ("keep", "merge"):
        decoder = made(family)
        before = weights_of(decoder)[1]
        merge(decoder, Merge(start=1, stop=3, norms=norms))
        after = weights_of(decoder)[1]
        changed[norms] = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed["keep"] == {name for name in before if not is_norm(name)}
    assert changed["merge"] == set(before)


def test_a_sum_of_two_layers_is_the_second_one() -> None:
    """θ_l + (θ_{l+1} - θ_l): for two layers the paper's rule and the published code's agree."""
    assert rule_weights("sum", 2) == rule_weights("last", 2) == [0.0, 1.0]


def test_bfloat16_is_rounded_once() -> None:
    decoder = made("llama", torch.bfloat16)
    before = weights_of(decoder)
    name = "mlp.down_proj.weight"
    exact = sum(before[layer][name].double() for layer in range(5)) / 5
    merge(decoder, Merge(start=0, stop=5, rule="mean"))
    half_a_unit = 2**-8 * 1.001  # of a significand of eight bits
    assert torch.allclose(weights_of(decoder)[0][name].double(), exact, rtol=half_a_unit, atol=1e-9)


@pytest.mark.parametrize("rule", ["sum", "last", "mean"])
def test_a_merge_of_merges_is_a_mix_of_the_original_layers(rule: Any) -> None:
    """Merge [2, 4), then what became layers 1..2 of that model; and the same in one edit with flattened weights."""
    step_by_step = made("llama")
    merge(step_by_step, Merge(start=2, stop=4, rule=rule))
    merge(step_by_step, Merge(start=1, stop=4, rule=rule))
    inner = mix_of([Mix(2), Mix(3)], rule)
    outer = mix_of([Mix(1), inner, Mix(4)], rule)
    assert (outer.start, outer.stop) == (1, 5)
    at_once = made("llama")
    merge(at_once, Merge(start=1, stop=5, rule=rule, weights=list(outer.weights)))
    for one, other in zip(weights_of(step_by_step), weights_of(at_once), strict=True):
        assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def merge_to_repair(decoder: Decoder, edit: Merge) -> None:
    """A merge that is repaired is no merge of the decoder's own layers."""
    student_of(decoder, [edit])


@pytest.mark.parametrize("way", [merge, merge_to_repair])
def test_layers_of_another_kind_are_refused_by_name(way: Callable[[Decoder, Merge], None]) -> None:
    decoder = Decoder(tiny.model("gemma2"))
    before = weights_of(decoder)
    with pytest.raises(PlanError, match=r"gemma2.*layer 2 unlike layer 1.*sliding_attention"):
        way(decoder, Merge(start=1, stop=3))
    after = weights_of(decoder)
    assert all(torch.equal(one[name], other[name]) for one, other in zip(before, after, strict=True) for name in one)
    assert layer_groups(decoder) == [0, 1, 0, 1, 0, 1]


def test_layers_of_other_shapes_are_another_kind() -> None:
    model = tiny.model("llama")
    decoder = Decoder(model)
    model.model.layers[3].mlp = copy.deepcopy(model.model.layers[3].mlp)
    model.model.layers[3].mlp.gate_proj = torch.nn.Linear(32, 40, bias=False)
    assert layer_groups(decoder) == [0, 0, 0, 3, 0, 0]


def test_a_plan_with_merges_is_checked() -> None:
    assert Merge(start=0, stop=4).weights == [-2.0, 1.0, 1.0, 1.0]
    for wrong in [{"stop": 1}, {"stop": 3, "weights": [1.0]}, {"stop": 2, "weights": [1.0, 1.0]}]:
        with pytest.raises(ValidationError):
            Merge.model_validate({"start": 0, **wrong})


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_apply_writes_a_model_that_loads_plainly(family: str, tmp_path: Path, main: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny.save(tmp_path / "model", family)
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(400), encoding="utf-8")
    status, _, err = main("plan", folder, "--preset", "laco", "--remove", 2, "--combine", 3, "--text", text,
                          "--out", tmp_path / "plan.json")  # fmt: skip
    assert status == 0, err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["layers_after"] == 4 and {edit["kind"] for edit in plan["edits"]} == {"merge"}
    status, _, err = main("apply", folder, tmp_path / "plan.json", "--out", tmp_path / "out")
    assert status == 0, err
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.num_hidden_layers == 4
    assert sum(p.numel() for p in loaded.parameters()) == plan["parameters_after"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "merged into layer" in card and "`sum`" in card
