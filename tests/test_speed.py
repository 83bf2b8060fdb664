"""Speed and memory: what is timed, in which order, what was possible, and what a cache really holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import nn

import tiny
from lowrise.measure import speed as module
from lowrise.measure.held import HeldBytes
from lowrise.measure.ideal import decode_cost, prefill_cost
from lowrise.measure.speed import Timing, speed
from lowrise.model.cache import cache_bytes, layer_caches
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

Main = Callable[..., tuple[int, str, str]]
QUIET = Reporter(quiet=True)
QUICK = ["--samples", "10", "--length", "32", "--quiet"]

# the tiny gated families: queries and output 32 × 32, keys and values 32 × 16, three MLP matrices 32 × 48
LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
HEAD = 32 * tiny.VOCABULARY


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of few tokens: what is measured stays the same."""
    for name, value in (("_PROMPT", 12), ("_NEW", 4), ("_ROUNDS", 2)):
        monkeypatch.setattr(module, name, value)


def pair(family: str = "llama", **changes: Any) -> tuple[Decoder, Decoder]:
    """(compressed, dense): four layers of six."""
    dense, compressed = (Decoder(tiny.model(family, **changes)) for _ in range(2))
    compressed.drop(1, 3)
    return compressed, dense


# -- the commands -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
def test_measure_times_both_models(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    shallower, out = tiny.save(tmp_path / "shallower", num_hidden_layers=4), tmp_path / "results.json"
    options = ["--dense", tiny_folder, "--speed", "--quiet", "--device", "cpu", "--out", out]
    status, printed, errors = main("measure", shallower, *options)
    assert status == 0, errors
    found = json.loads(out.read_text())["speed"]
    assert found.keys() == {"dense", "compressed", "ratio", "ideal", "settings"}
    for name, layers in (("dense", 6), ("compressed", 4)):
        one = found[name]
        assert one["kv_bytes_per_token"] == layers * 2 * 2 * 8 * 4  # keys and values, 2 heads of 8, float32
        for part in ("prefill", "decode"):
            assert one[part].keys() == {"1", "8"}
            assert all(0 < rate["low"] <= rate["tokens_per_second"] <= rate["high"] for rate in one[part].values())
        first = one["first_token_seconds"]
        assert 0 < first["low"] <= first["median"] <= first["high"]
    assert found["dense"]["peak_bytes"] > found["compressed"]["peak_bytes"]
    for part in ("prefill", "decode"):
        for batch in ("1", "8"):
            share = found["ratio"][part][batch]["median"] / found["ideal"][part][batch]["ratio"]
            assert found["ideal"][part][batch]["share"] == pytest.approx(share)
    settings = {"prompt_tokens": 12, "new_tokens": 4, "rounds": 2, "device": "cpu", "dtype": "float32"}
    assert settings.items() <= found["settings"].items()
    for words in (
        "prefill, tokens/s, batch 1",
        "decode, tokens/s, batch 8",
        "768 B",
        "512 B",
        "first token, ms",
        "ideal ×",
    ):
        assert words in printed


@pytest.mark.usefixtures("short")
def test_measure_times_one_model_alone(main: Main, tiny_folder: Path) -> None:
    status, printed, errors = main("measure", tiny_folder, "--speed", "--quiet", "--json")
    assert status == 0, errors
    assert json.loads(printed)["speed"].keys() == {"compressed", "settings"}
    assert "decode, tokens/s, batch 1" in main("measure", tiny_folder, "--speed", "--quiet")[1]


def test_nothing_is_timed_unasked(main: Main, tiny_folder: Path) -> None:
    assert "speed" not in json.loads(main("measure", tiny_folder, "--quiet", "--json")[1])


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("preset", ["streamline-none", "streamline-ffn"])
def test_run_times_the_dense_model_as_it_was_before_the_edit(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, preset: str
) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    training = {"training": {"epochs": 1}} if preset != "streamline-none" else {}
    file.write_text(yaml.safe_dump({"speed": True, **training}))
    status, _, errors = main("run", tiny_folder, "--preset", preset, "--remove", 2, "--text", text_file, "--out", out,
                             "--recipe", file, *QUICK)  # fmt: skip
    assert status == 0, errors
    results = json.loads((out / "lowrise/results.json").read_text())
    found = results["speed"]
    layers = 4 if preset == "streamline-none" else 3  # the network keeps no keys and values
    assert found["dense"]["kv_bytes_per_token"] == 6 * 128
    assert found["compressed"]["kv_bytes_per_token"] == layers * 128
    assert found["ideal"]["prefill"]["1"]["ratio"] > 1
    assert "speed" in results["seconds"]
    assert "| writing, batch 1 |" in (out / "README.md").read_text()
    assert yaml.safe_load((out / "lowrise/recipe.yaml").read_text())["speed"] is True


def test_a_recipe_value_that_is_no_yes_or_no_is_refused(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("speed: sometimes\n")
    status, printed, errors = main("run", tiny_folder, "--recipe", file, "--out", tmp_path / "out")
    assert (status, printed) == (2, "")
    assert "speed: expected a valid boolean" in errors
    assert len(errors.splitlines()) == 1


# -- how it is timed ----------------------------------------------------------------------------------------------


def test_models_take_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted seconds. The pairs' ratios are 2, 3, 10 (median 3); the ratio of the medians would be 4 / 2."""
    seconds = {"dense": [99.0, 2.0, 30.0, 4.0], "compressed": [1.0, 1.0, 10.0, 0.4]}
    compressed, dense = pair()
    monkeypatch.setattr(module, "_ROUNDS", 3)
    monkeypatch.setattr(module, "_memory", lambda *_: {"kv_bytes_per_token": 1, "peak_bytes": 1})
    order: list[tuple[str, int]] = []

    def scripted(decoder: Decoder, ids: torch.Tensor, _new: int) -> Timing:
        name = "dense" if decoder is dense else "compressed"
        turn = sum(entry == (name, len(ids)) for entry in order)
        order.append((name, len(ids)))
        return Timing(prefill=seconds[name][turn], decode=2 * seconds[name][turn])

    monkeypatch.setattr(module, "_generate", scripted)
    found = speed(compressed, dense, QUIET).model_dump()
    assert order == [(name, batch) for batch in (1, 8) for _ in range(4) for name in ("dense", "compressed")]
    assert found["ratio"]["decode"]["8"] == {"median": 3.0, "low": 2.5, "high": 6.5}
    assert found["dense"]["first_token_seconds"] == {"median": 4.0, "low": 3.0, "high": 17.0}
    # 96 tokens of prompt (the positions of the tiny model end at 128), rates 8 · 96 / seconds
    assert found["dense"]["prefill"]["8"]["tokens_per_second"] == 8 * 96 / 4
    assert found["dense"]["decode"]["1"]["tokens_per_second"] == 32 / 8


@pytest.mark.usefixtures("short")
def test_all_but_the_times_is_the_same_again() -> None:
    def timeless() -> Any:
        found = speed(compressed, dense, QUIET).model_dump()
        ideals = [[one["ratio"] for one in part.values()] for part in found["ideal"].values()]
        sizes = [found[name][key] for name in ("dense", "compressed") for key in ("kv_bytes_per_token", "peak_bytes")]
        return ideals, sizes, found["settings"]

    compressed, dense = pair()
    assert timeless() == timeless()


@pytest.mark.usefixtures("short")
def test_the_models_and_the_random_state_are_left_as_they_were() -> None:
    compressed, dense = pair("gemma2")

    def state() -> list[Any]:
        found: list[Any] = [torch.get_rng_state().tolist()]
        for decoder in (compressed, dense):
            hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in decoder.model.modules()]
            flags = [(part.training, type(part)) for part in decoder.model.modules()]
            weights = [(name, value.tolist()) for name, value in decoder.model.state_dict().items()]
            found.append((hooks, flags, weights, decoder.model.config.to_dict()))
        return found

    before = state()
    speed(compressed, dense, QUIET)
    assert state() == before


@pytest.mark.parametrize(("positions", "shape"), [(1000, (256, 32)), (100, (68, 32)), (20, (10, 10))])
def test_a_model_with_few_positions_gets_a_shorter_prompt(positions: int, shape: tuple[int, int]) -> None:
    assert module.shape_of([Decoder(tiny.model(max_position_embeddings=positions))]) == shape


# -- what was possible --------------------------------------------------------------------------------------------


def test_prefill_operations_of_a_llama_by_hand() -> None:
    """A layer: 2 a matrix entry and token; attention 4 · 32 a pair of tokens; the head once."""
    compressed, dense = pair()
    attention = 4 * 32 * 24 * 24
    for decoder, layers in ((dense, 6), (compressed, 4)):
        assert prefill_cost(decoder, 24) == layers * (2 * LAYER * 24 + attention) + 2 * HEAD


def test_prefill_operations_of_a_gpt2_by_hand() -> None:
    """Fused queries, keys and values 32 × 96, output 32 × 32, MLP 32 × 128 and back."""
    layer = 32 * 96 + 32 * 32 + 2 * 32 * 128
    expected = tiny.LAYERS * (2 * layer * 24 + 4 * 32 * 24 * 24) + 2 * HEAD
    assert prefill_cost(Decoder(tiny.model("gpt2")), 24) == expected


def test_a_token_of_a_mixture_of_experts_reads_its_own_experts() -> None:
    """Two experts of eight, three matrices of 32 × 16 each, and the router 32 × 8."""
    config = transformers.Qwen3MoeConfig(
        **tiny.FAMILIES["llama"][1], head_dim=8, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=2
    )
    decoder = Decoder(transformers.AutoModelForCausalLM.from_config(config).eval())
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 3 * 32 * 16 + 32 * 8
    assert prefill_cost(decoder, 24) == tiny.LAYERS * (2 * layer * 24 + 4 * 32 * 24 * 24) + 2 * HEAD


def test_decode_bytes_of_a_llama_by_hand() -> None:
    """4 bytes a matrix entry and step; 128 bytes of keys and values a layer, token and row: 20, 21 and 22 tokens."""
    compressed, dense = pair()
    for decoder, layers in ((dense, 6), (compressed, 4)):
        cache = 8 * layers * 128 * (20 + 21 + 22)
        assert decode_cost(decoder, 8, prompt=20, steps=3) == 3 * 4 * (layers * LAYER + HEAD) + cache


def test_decode_bytes_stop_growing_at_a_window() -> None:
    """Every second layer of Gemma-2 keeps 7 tokens of its window of 8; 12 and 13 tokens have been read."""
    expected = 2 * 4 * (6 * LAYER + HEAD) + 3 * 128 * (12 + 13) + 3 * 128 * (7 + 7)
    assert decode_cost(Decoder(tiny.model("gemma2")), 1, prompt=12, steps=2) == expected


# -- what a cache holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_cache_bytes_are_those_of_a_real_cache(family: str) -> None:
    """Before any window is full (5 tokens), when all are (24), and two tokens later."""
    decoder = Decoder(tiny.model(family))
    layers = layer_caches(decoder)
    for prompt in (5, 24):
        cache = decoder.model(input_ids=tiny.ids(1, prompt), use_cache=True).past_key_values
        for tokens in range(prompt, prompt + 3):
            held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            assert cache_bytes(layers, tokens) == held, tokens
            cache = decoder.model(input_ids=tiny.ids(1, 1), past_key_values=cache, use_cache=True).past_key_values


@pytest.mark.parametrize(
    ("family", "heads", "sliding"),
    [("llama", 2, 0), ("mistral", 2, 6), ("qwen2", 2, 3), ("gemma2", 2, 3), ("gemma3_text", 2, 5), ("gpt2", 4, 0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("short")
def test_cache_bytes_a_token_by_hand(family: str, heads: int, sliding: int, dtype: torch.dtype) -> None:
    """Keys and values, `heads` of 8 numbers each; windows stop the layers that have one from growing."""
    decoder = Decoder(tiny.model(family).to(dtype))
    layer = 2 * heads * 8 * dtype.itemsize
    found = module._memory(decoder, tiny.ids(8, 12), 2)
    assert found["kv_bytes_per_token"] == tiny.LAYERS * layer
    past = {"kv_bytes_per_token_past_windows": (tiny.LAYERS - sliding) * layer} if sliding else {}
    assert {name: value for name, value in found.items() if "past" in name} == past


def test_a_layer_gone_takes_its_cache_along() -> None:
    compressed, dense = pair("gemma2")
    assert [layer.most for layer in layer_caches(dense)] == [7, None] * 3
    assert [layer.most for layer in layer_caches(compressed)] == [7, None, 7, None]


# -- memory -------------------------------------------------------------------------------------------------------


def test_held_bytes_are_weights_and_the_most_that_lives_beside_them() -> None:
    """100 floats of weights, of which a view is no new memory; then 10 and 20 at once; then 15 alone."""
    layer = nn.Linear(10, 10, bias=False).requires_grad_(False)
    with HeldBytes(layer) as held:
        view = layer.weight[:5]
        first = torch.zeros(10)
        both = torch.cat([first, first])
        del first, both
        torch.zeros(15)
    assert view.shape == (5, 10)
    assert held.peak == 4 * (100 + 10 + 20)


def test_tied_weights_are_held_once() -> None:
    tied, untied = (tiny.model("llama", tie_word_embeddings=tie) for tie in (True, False))
    assert HeldBytes(untied).peak - HeldBytes(tied).peak == 4 * HEAD


def test_a_bigger_batch_holds_its_own_cache() -> None:
    """At least: weights, the logits of eight rows, their keys and values."""
    decoder = Decoder(tiny.model())
    found = module._memory(decoder, tiny.ids(8, 40), 4)
    assert found["peak_bytes"] > 4 * decoder.parameters() + 8 * 44 * found["kv_bytes_per_token"]
