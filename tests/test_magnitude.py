"""Prune&Comp: weights below a gap scaled, against a stream that is multiplied at the gap itself."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny
from cuts import logits
from lowrise.edit import magnitude
from lowrise.edit.student import Student, student_of
from lowrise.errors import ModelError
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.decoder import Decoder
from lowrise.model.source import open_model
from lowrise.plan import Merge
from ridges import HELD_OUT
from stream import drop, states_of, task_of, walked

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": (
        "GraniteConfig",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "tie_word_embeddings": True},
    ),
    "glm4": ("Glm4Config", {"head_dim": 8}),
    "exaone4": ("Exaone4Config", {"sliding_window": 8, "tie_word_embeddings": True}),
    "nemotron": ("NemotronConfig", {"tie_word_embeddings": True}),
    "phi": ("PhiConfig", {}),
    "cohere": ("CohereConfig", {}),
}
TIED = ["gemma2", "gemma3_text", "gpt2", "opt", "granite", "exaone4", "nemotron", "cohere"]
# at the bottom, in the middle, at the top, and several
GAPS = [[(0, 2)], [(2, 4)], [(4, 6)], [(0, 1), (2, 3), (4, 5)], [(1, 2), (3, 6)]]


def make(family: str, **changes: Any) -> Decoder:
    if family in tiny.FAMILIES:
        return Decoder(tiny.model(family, **changes))
    return of_config(*OTHERS[family])


def of_config(name: str, settings: dict[str, Any]) -> Decoder:
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**tiny.FAMILIES["llama"][1], **settings})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Decoder(model.eval())


def without(gaps: list[tuple[int, int]]) -> list[int]:
    return tiny.without(*(layer for gap in gaps for layer in range(*gap)))


def naive_ratio(states: dict[int, Tensor], start: int, stop: int) -> float:
    before = after = 0.0
    for x, y in zip(states[start], states[stop], strict=True):
        before += math.sqrt(sum(value * value for value in x.tolist()))
        after += math.sqrt(sum(value * value for value in y.tolist()))
    return after / before


def multiplied(dense: Decoder, gaps: list[tuple[int, int]], ratios: list[float]) -> Tensor:
    """Logits of the student whose stream is multiplied in front of the layer behind each gap."""
    changes = {stop: (lambda h, by=by: by * h) for (_, stop), by in zip(gaps, ratios, strict=True)}
    return walked(dense, without(gaps), changes)  # type: ignore[arg-type]


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("family", [*tiny.FAMILIES, *OTHERS])
def test_weights_do_what_multiplying_the_stream_would(family: str, gaps: list[tuple[int, int]]) -> None:
    """But for the ε of norms. Ratios far from 1 are put in each gap's place, so that one left out would show; those of
    two gaps make 1.02, so that what is right for large factors alone would show too.
    """
    decoder = make(family)
    magnitude.check(decoder)
    dense, ratios = Decoder(copy.deepcopy(decoder.model)), [1.7, 0.6, 2.5][: len(gaps)]
    kept, rest = without(gaps), list(ratios)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magnitude, "_ratio", lambda _boundary: rest.pop(0))
        magnitude.repair(task_of(Student(decoder, kept)))
    drop(decoder, kept)
    expected = multiplied(dense, gaps, ratios)
    assert apart(logits(decoder.model, tiny.ids()), expected) < 2e-3
    if gaps[-1][1] < tiny.LAYERS and gaps[0][0] > 0:  # elsewhere norms make all of it the same
        assert apart(multiplied(dense, gaps, [1.0] * len(gaps)), expected) > 1e-2


@pytest.mark.parametrize("gaps", GAPS)
def test_the_ratio_is_of_mean_lengths_of_fitted_tokens(gaps: list[tuple[int, int]]) -> None:
    decoder = make("llama")
    fitted, held = states_of(decoder, tiny.windows())
    dense = Decoder(copy.deepcopy(decoder.model))
    repaired = magnitude.repair(task_of(Student(decoder, without(gaps))))
    ratios = [naive_ratio(fitted, *gap) for gap in gaps]
    drop(decoder, without(gaps))
    assert apart(logits(decoder.model, tiny.ids()), multiplied(dense, gaps, ratios)) < 2e-3
    assert [(fit.layer + 1, fit.stop) for fit in repaired.fits] == gaps
    assert repaired.networks == {}
    for fit, (start, stop), ratio in zip(repaired.fits, gaps, ratios, strict=True):
        for found, by in ((fit.before, 1.0), (fit.after, ratio)):
            errors = [
                float((y - by * x).square().sum() / y.norm()) for x, y in zip(held[start], held[stop], strict=True)
            ]
            assert found == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_ratios_multiply_bottom_up() -> None:
    """The embedding and the first layer have both, the layers between the gaps the upper one, those above none."""
    decoder, gaps = make("llama"), [(1, 2), (4, 5)]
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    fitted, _ = states_of(decoder, tiny.windows())
    lower, upper = (naive_ratio(fitted, *gap) for gap in gaps)
    magnitude.repair(task_of(Student(decoder, without(gaps))))
    scaled = {"model.embed_tokens.weight": lower * upper}
    for layer, by in ((0, lower * upper), (2, upper), (3, upper)):
        scaled |= {f"model.layers.{layer}.{part}.weight": by for part in ("self_attn.o_proj", "mlp.down_proj")}
    for name, value in decoder.model.state_dict().items():
        assert torch.allclose(value, scaled.get(name, 1.0) * before[name], rtol=1e-5), name


@pytest.mark.parametrize("family", ["llama", *TIED])
def test_a_tied_head_stays_tied_and_says_the_same(family: str) -> None:
    """Of a gap at the very bottom: all that changes is the embedding and the norm before the head."""
    decoder = make(family, **({"tie_word_embeddings": True} if family == "llama" else {}))
    model = decoder.model
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    h, ids = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0)), tiny.ids()
    with torch.no_grad():
        expected, embedded = decoder.logits(h, ids), decoder.embed(ids)[0]
        repaired = magnitude.repair(task_of(Student(decoder, tiny.without(0))))
        assert torch.allclose(decoder.logits(h, ids), expected, atol=1e-5 * float(expected.abs().max()))
        found = decoder.embed(ids)[0]
    assert len(repaired.fits) == 1
    ratio = float(found.norm() / embedded.norm())
    assert abs(ratio - 1) > 1e-2
    assert torch.allclose(found, ratio * embedded, atol=1e-5 * float(found.abs().max()))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


@pytest.mark.parametrize("tied", [False, True])
def test_the_result_loads_plainly(tied: bool, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", tie_word_embeddings=tied)
    opened, kept = open_model(str(folder), device="cpu"), tiny.without(1, 4)
    dense = Decoder(AutoModelForCausalLM.from_pretrained(folder))
    ratios = [naive_ratio(states_of(dense, tiny.windows())[0], at, at + 1) for at in (1, 4)]
    magnitude.repair(task_of(Student(opened.decoder, kept)))
    drop(opened.decoder, kept)
    in_memory, out = logits(opened.model, tiny.ids()), tmp_path / "out"
    out.mkdir()
    save_and_prove(opened, out, out=out, compute=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert type(loaded) is transformers.LlamaForCausalLM
    assert loaded.config.tie_word_embeddings is tied
    assert torch.equal(logits(loaded, tiny.ids()), in_memory)
    assert apart(in_memory, multiplied(dense, [(1, 2), (4, 5)], ratios)) < 2e-3


def test_a_merged_layer_before_the_gap_is_scaled_as_merged() -> None:
    decoder = make("llama")
    dense = Decoder(copy.deepcopy(decoder.model))
    student = student_of(decoder, [Merge(start=1, stop=3, rule="mean", weights=[0.5, 0.5], norms="keep")])
    fitted, _ = states_of(dense, tiny.windows())
    with torch.no_grad():
        h, calls = dense.embed(tiny.windows().ids)
        merged = student.step(1, dense.step(0, h, calls), calls)[:-HELD_OUT].flatten(0, 1).double()
    ratio = naive_ratio({**fitted, 2: merged}, 2, 3)
    magnitude.repair(task_of(student))
    mean = (dense.layers[1].mlp.down_proj.weight + dense.layers[2].mlp.down_proj.weight) / 2
    assert torch.allclose(decoder.layers[1].mlp.down_proj.weight, ratio * mean, rtol=1e-4, atol=1e-6)
    assert torch.equal(decoder.layers[3].mlp.down_proj.weight, dense.layers[3].mlp.down_proj.weight)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *OTHERS])
def test_checking_changes_nothing(family: str) -> None:
    decoder = make(family)
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    magnitude.check(decoder)
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
           "decoder_sparse_step": 1}  # fmt: skip
REFUSED = [
    ("Qwen3MoeConfig", EXPERTS, "family qwen3_moe"),
    ("MixtralConfig", EXPERTS, "family mixtral"),
    ("BloomConfig", {"n_layer": 6, "n_head": 4, "hidden_size": 32}, "embeddings that grow"),
    ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False}, "layers that grow"),
]


@pytest.mark.parametrize(("name", "settings", "said"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_what_cannot_be_scaled_exactly_is_refused_in_one_line(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        magnitude.check(of_config(name, settings))
    assert len(str(raised.value).splitlines()) == 1
