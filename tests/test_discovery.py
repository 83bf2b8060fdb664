"""What is found on layers by running them (`model/discovery.py`, `model/experts.py`)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mixtures
import tiny
from lowrise.errors import ModelError
from lowrise.model.blocks import BlockNames
from lowrise.model.decoder import Decoder
from lowrise.model.discovery import find_blocks
from lowrise.model.experts import Experts, calls_of, routing, sum_by_token
from lowrise.model.families import FAMILIES
from lowrise.model.refittable import check_writes, refit_support
from lowrise.model.structure import blocks_of, known_by_name

SEQUENTIAL = sorted(set(tiny.FAMILIES) - {"gpt_neox"})


def found(decoder: Decoder, index: int = 2) -> tuple[BlockNames, ...]:
    h, calls = decoder.embed(decoder.probe_ids)
    return find_blocks(decoder.layer(index), h, calls[index])


def experts_of(decoder: Decoder, index: int = 3) -> Experts:
    return next(one for one in blocks_of(decoder, index)[-1].writes if isinstance(one, Experts))


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_what_is_found_is_what_the_table_says(family: str) -> None:
    names, (attention, mlp) = FAMILIES[family], found(Decoder(tiny.model(family)))
    assert [read.matrices for read in attention.reads] == [names.attention_inputs]
    assert [read.matrices for read in mlp.reads] == [names.mlp_inputs]
    assert [write.module for write in attention.writes] == [names.attention_output]
    assert [write.module for write in mlp.writes] == [names.mlp_output]
    assert (attention.norm, mlp.norm) == (names.attention_norm, names.mlp_norm)
    assert all(read.raw == names.raw for block in (attention, mlp) for read in block.reads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_factor_is_found_as_it_was_written(dtype: torch.dtype) -> None:
    decoder = Decoder(mixtures.model("granitemoe").to(dtype))
    assert {write.factor for block in found(decoder) for write in block.writes} == {0.22}


def test_blocks_side_by_side_are_one() -> None:
    (only,) = found(mixtures.decoder("cohere2_moe"))
    assert [write.module for write in only.writes] == ["self_attn.o_proj", "mlp.experts"]
    (read,) = only.reads
    assert read.matrices[0] == "self_attn.q_proj" and read.experts[0].reads == ("gate_up_proj",)


def test_a_shared_expert_is_multiplied_by_its_gate_and_routers_are_not_read() -> None:
    _, mixture = found(mixtures.decoder("qwen2_moe"))
    assert {write.module: write.gate for write in mixture.writes} == {
        "mlp.shared_expert.down_proj": "mlp.shared_expert_gate",
        "mlp.experts": None,
    }
    assert [read.matrices for read in mixture.reads] == [("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")]


def test_a_mixer_without_an_mlp_is_one_block() -> None:
    (only,) = found(mixtures.decoder("mamba"))
    assert [read.matrices for read in only.reads] == [("mixer.in_proj",)]
    assert [write.module for write in only.writes] == ["mixer.out_proj"]


def test_layers_of_several_kinds_are_found_each_by_itself() -> None:
    decoder = mixtures.decoder("lfm2")
    first = [blocks_of(decoder, index)[0].writes[0] for index in range(3)]
    assert [write.matrix.parameter for write in first if not isinstance(write, Experts)] == [
        "conv.out_proj.weight",
        "conv.out_proj.weight",
        "self_attn.out_proj.weight",
    ]


def test_what_a_layer_multiplies_by_is_its_own_number() -> None:
    decoder = mixtures.decoder("gemma4_text")
    assert not known_by_name(decoder)  # a matrix reads what the MLP writes
    for index, layer in enumerate(decoder.layers):
        factor = pytest.approx(float(layer.layer_scalar), rel=1e-4)
        blocks = blocks_of(decoder, index)
        assert len(blocks) == 3
        assert all(block.norm is not None and block.norm.factor == factor == block.skip_scale for block in blocks)


def test_what_passes_a_norm_together_with_the_stream_is_no_write() -> None:
    blocks = found(mixtures.decoder("bert"))
    assert not any(block.writes for block in blocks)
    assert blocks[0].reads[0].matrices[0] == "attention.self.query"


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(mixtures.FAMILIES))
def test_what_experts_are_given_makes_what_they_write(family: str) -> None:
    decoder = mixtures.decoder(family)
    experts = experts_of(decoder)
    made: list[Tensor] = []
    with (
        routing(experts) as routed,
        calls_of(experts.module, lambda args, kwargs: made.append(experts.made(args, kwargs)[0])),
    ):
        h, calls = decoder.embed(tiny.ids())
        decoder.step(3, h, calls)
    weight = experts.module.get_parameter(experts.output)
    _, k, d = experts.shape
    assert routed[0].given.shape == (48 * decoder.config.num_experts_per_tok, k)
    plain = sum_by_token(experts, routed[0], weight, 48) / experts.factor
    assert torch.allclose(plain, made[0].view(-1, 48, d).sum(0), atol=1e-4)  # called once for all tokens, or for each


@torch.no_grad()
def test_what_an_expert_is_given_is_its_neurons_times_the_routers_weight() -> None:
    decoder = mixtures.decoder("mixtral")
    mlp = decoder.layers[3].mlp
    x = torch.randn(10, 32)
    _, weights, chosen = mlp.gate(x)
    routed = experts_of(decoder).routed(x, chosen, weights)
    for given, expert, token in zip(routed.given, routed.experts, routed.tokens, strict=True):
        gate, up = (mlp.experts.gate_up_proj[expert] @ x[token]).chunk(2)
        weight = weights[token][chosen[token] == expert]
        assert torch.allclose(given, weight * torch.nn.functional.silu(gate) * up, atol=1e-4)


@pytest.mark.parametrize("path", ["mlp", "mlp.experts"])
def test_experts_that_do_something_else_are_found_out_by_trying(path: str) -> None:
    decoder = mixtures.decoder("mixtral")
    for layer in decoder.layers:
        layer.get_submodule(path).register_forward_hook(lambda _module, _args, out: out.tanh())
    assert [block.writes for block in found(decoder)][-1] == ()
    with pytest.raises(ModelError, match="repair of family mixtral: expected last matrices whose output is added"):
        check_writes(decoder)
    assert not refit_support(decoder)  # reads alone, and what attention writes


def test_what_is_known_by_name_is_not_looked_for() -> None:
    assert known_by_name(Decoder(tiny.model("llama")))
    assert not known_by_name(mixtures.decoder("mixtral"))


@pytest.mark.parametrize("family", sorted(mixtures.FAMILIES))
def test_mixtures_are_refit_and_folded_unless_a_norm_stands_behind_them(family: str) -> None:
    decoder = mixtures.decoder(family)
    assert refit_support(decoder)
    if family == "flex_olmo":
        with pytest.raises(ModelError, match="layer 0, a FlexOlmoDecoderLayer"):
            check_writes(decoder)
    else:
        check_writes(decoder)


def test_a_layer_of_which_nothing_is_found_is_refused_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.model.structure.find_blocks", lambda *_: ())
    with pytest.raises(ModelError, match="found none in layer 0, a MixtralDecoderLayer; choose a preset"):
        refit_support(mixtures.decoder("mixtral"))
