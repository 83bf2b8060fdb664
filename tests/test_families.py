"""The contract of the Decoder view, the same for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny
from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.following import per_layer_lists
from lowrise.model.networks import random_network
from tiny_families import tiny_model

Main = Callable[..., tuple[int, str, str]]
SPANS = [(1, 3), (0, 2), (4, 6)]


class _Skip(nn.Module):
    """A layer that does nothing, as plain as can be; some models ask for the skipped layer's attributes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", tiny.FAMILIES)
class TestFamily:
    @pytest.mark.parametrize("span", SPANS)
    def test_a_dropped_span_equals_skipping_it(self, family: str, span: tuple[int, int]) -> None:
        ids = tiny.ids()
        skipping = tiny.model(family)
        stack = Decoder(skipping).layers
        for index in range(*span):
            stack[index] = _Skip(stack[index])
        dropped = tiny.model(family)
        Decoder(dropped).drop(*span)
        assert torch.equal(logits(dropped, ids), logits(skipping, ids))

    @pytest.mark.parametrize("span", SPANS)
    def test_cached_and_uncached_generation_agree_after_a_splice(self, family: str, span: tuple[int, int]) -> None:
        model = tiny.model(family)
        Decoder(model).drop(*span)
        settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
        ids = tiny.ids(tokens=10)
        mask = torch.ones_like(ids)
        cached = model.generate(ids, attention_mask=mask, use_cache=True, **settings)
        assert torch.equal(cached, model.generate(ids, attention_mask=mask, use_cache=False, **settings))

    @pytest.mark.parametrize("span", SPANS)
    def test_saved_and_plainly_loaded_gives_equal_logits(
        self, family: str, span: tuple[int, int], tmp_path: Path
    ) -> None:
        model = tiny.model(family)
        Decoder(model).drop(*span)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert len(Decoder(loaded)) == tiny.LAYERS - 2
        assert torch.equal(logits(loaded, tiny.ids()), logits(model, tiny.ids()))

    @pytest.mark.parametrize("span", SPANS)
    def test_every_per_layer_list_keeps_the_entries_of_the_layers_that_stay(
        self, family: str, span: tuple[int, int]
    ) -> None:
        model = tiny.model(family)
        decoder = Decoder(model)
        before = {name: list(getattr(decoder.config, name)) for name in per_layer_lists(decoder.config)}
        decoder.drop(*span)
        for name, entries in before.items():
            assert list(getattr(decoder.config, name)) == entries[: span[0]] + entries[span[1] :]
        assert decoder.config.num_hidden_layers == len(decoder) == tiny.LAYERS - 2

    def test_every_layer_index_is_where_the_layer_stands(self, family: str) -> None:
        decoder = Decoder(tiny.model(family))
        decoder.drop(1, 3)
        found = [
            (index, module.layer_idx)
            for index, layer in enumerate(decoder.layers)
            for module in layer.modules()
            if hasattr(module, "layer_idx")
        ]
        assert found
        assert all(index == own for index, own in found)

    def test_states_are_those_that_hooks_see(self, family: str) -> None:
        """h[0..L] from one pass, h[L] before the final norm, equal to the inputs and output that plain hooks record."""
        model, ids = tiny.model(family), tiny.ids()
        decoder = Decoder(model)
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone())) for layer in decoder.layers
        ]
        hooks.append(decoder.layers[-1].register_forward_hook(lambda _m, _a, out: seen.append(out.clone())))
        logits(model, ids)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            ours = [h for _, h in decoder.states(ids)]
        assert len(ours) == len(seen) == tiny.LAYERS + 1
        assert all(torch.equal(a, b) for a, b in zip(ours, seen, strict=True))

    def test_leaving_with_the_last_state_gives_the_models_logits(self, family: str) -> None:
        model, ids = tiny.model(family), tiny.ids()
        decoder = Decoder(model)
        with torch.no_grad():
            *_, (_, last) = decoder.states(ids)
            assert torch.equal(decoder.logits(last, ids), logits(model, ids))

    def test_running_parts_leaves_the_layers_in_place_even_when_it_fails(self, family: str) -> None:
        decoder = Decoder(tiny.model(family))
        stack = decoder.layers
        with pytest.raises((IndexError, RuntimeError)):
            decoder.embed(torch.tensor([[10**6]]))
        assert decoder.layers is stack

    def test_training_the_layer_in_place_sees_causal_attention(self, family: str) -> None:
        """A later token must not change an earlier one's output when a layer runs with the recorded calls."""
        decoder = Decoder(tiny.model(family, attn_implementation="eager"))
        h, calls = decoder.embed(tiny.ids(rows=1))
        changed = h.clone()
        changed[:, -1] += 1
        with torch.no_grad():
            before, after = decoder.step(2, h, calls), decoder.step(2, changed, calls)
        assert torch.equal(before[:, :-1], after[:, :-1])
        assert not torch.equal(before[:, -1], after[:, -1])


def test_qwen2_boundary_between_full_and_sliding_layers_moves() -> None:
    decoder = Decoder(tiny.model("qwen2"))
    decoder.drop(1, 3)  # layers 0..2 are full, 3..5 slide
    assert decoder.config.max_window_layers == 1
    assert decoder.config.layer_types == ["full_attention"] + ["sliding_attention"] * 3


def test_no_rope_layers_follow() -> None:
    from transformers import SmolLM3Config

    config = SmolLM3Config(
        **{**tiny.FAMILIES["llama"][1], "no_rope_layers": [1, 0, 1, 1, 0, 1], "use_sliding_window": False}
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model)
    decoder.drop(2, 4)
    assert decoder.config.no_rope_layers == [1, 0, 0, 1]
    assert [layer.self_attn.use_rope for layer in decoder.layers] == [1, 0, 0, 1]


def test_mlp_layer_types_follow() -> None:
    """A stack that names its dense and sparse layers one by one is spliced by those names."""
    from transformers import ExaoneMoeConfig

    settings = {**tiny.FAMILIES["llama"][1], "head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4}
    kinds = ["dense", "sparse", "sparse", "dense", "sparse", "sparse"]
    config = ExaoneMoeConfig(**settings, num_experts_per_tok=2, mlp_layer_types=kinds, n_group=1, topk_group=1)
    decoder = Decoder(AutoModelForCausalLM.from_config(config).eval())
    decoder.drop(2, 4)
    assert decoder.config.mlp_layer_types == ["dense", "sparse", "sparse", "sparse"]


def test_what_ties_a_layer_to_its_position_is_refused_by_the_difference() -> None:
    decoder = Decoder(tiny.model("gpt2", scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(ModelError, match=r"scaling is .* but a fresh load of the new config gives"):
        _ = decoder.restrictions


def _save(made: Any, folder: Path) -> Path:
    made.eval().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def openai_gpt(folder: Path) -> Path:
    """Its layers return a list, its model keeps no keys and values."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": tiny.LAYERS, "n_head": 4, "n_positions": 128}
    config = transformers.OpenAIGPTConfig(vocab_size=tiny.VOCABULARY, **sizes)
    return _save(transformers.OpenAIGPTLMHeadModel(config), folder)


def test_layers_that_return_a_list(tmp_path: Path) -> None:
    model, ids = AutoModelForCausalLM.from_pretrained(openai_gpt(tmp_path)), tiny.ids()
    decoder = Decoder(model)
    with torch.no_grad():
        *_, (_, last) = decoder.states(ids)
        assert torch.equal(decoder.logits(last, ids), logits(model, ids))
        decoder.attach(random_network("ffn", 32, 48, "relu", 0), len(decoder))  # after the last layer: its output
        assert not torch.equal(decoder.logits(last, ids), logits(model, ids))


@pytest.mark.parametrize("preset", ["streamline-none", "streamline", "streamline-ffn", "laco-mean"])
def test_a_model_without_a_cache_is_made_shallower(main: Main, text_file: Path, tmp_path: Path, preset: str) -> None:
    folder, out, recipe = openai_gpt(tmp_path / "model"), tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 1}\n" if preset.startswith("streamline") else "{}\n")
    status, _, errors = main("run", folder, "--preset", preset, "--remove", 2, "--text", text_file, "--samples", 10,
                             "--length", 32, "--recipe", recipe, "--out", out, "--quiet")  # fmt: skip
    assert status == 0, errors
    loaded = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=preset == "streamline-ffn")
    assert len(Decoder(loaded)) == (3 if preset == "streamline-ffn" else 4)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [(["run", "--preset", "streamline-none"], "give --text"), (["measure", "--speed"], "--speed")],
)
def test_what_needs_a_cache_is_refused_without_one(main: Main, tmp_path: Path, options: list[str], remedy: str) -> None:
    folder, out = openai_gpt(tmp_path / "model"), tmp_path / "out"
    command, *rest = options
    status, printed, errors = main(command, folder, *rest, "--out", out, "--quiet")
    assert (status, printed) == (2, "")
    line = errors.splitlines()[-1]
    assert line.startswith(f"lowrise: {folder}: expected a model that keeps keys and values")
    assert remedy in line
    assert not out.exists()


def test_the_decoder_of_an_encoder_decoder_is_made_shallower(main: Main, text_file: Path, tmp_path: Path) -> None:
    """Its config's num_hidden_layers speaks of the encoder; what counts its own layers follows."""
    sides = {f"{side}_{what}": 4 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.BartConfig(
        vocab_size=tiny.VOCABULARY, d_model=32, **sides, decoder_ffn_dim=48, encoder_ffn_dim=48,
        max_position_embeddings=128, is_encoder_decoder=False, is_decoder=True, forced_eos_token_id=None,
    )  # fmt: skip
    folder, out = _save(transformers.BartForCausalLM(config), tmp_path / "model"), tmp_path / "out"
    status, _, errors = main("run", folder, "--preset", "streamline-none", "--remove", 2, "--text", text_file,
                             "--length", 32, "--out", out, "--quiet")  # fmt: skip
    assert status == 0, errors
    loaded = transformers.BartForCausalLM.from_pretrained(out)
    assert (loaded.config.decoder_layers, loaded.config.encoder_layers, len(Decoder(loaded))) == (2, 4, 2)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "tokens"), [("xmod", 126), ("roberta", 126), ("llama", 128), ("opt", 128)])
def test_as_many_tokens_are_read_as_there_are_positions_for(kind: str, tokens: int) -> None:
    """Of 128; where the table begins with rows for padding, behind these."""
    decoder = Decoder(tiny_model(kind))
    assert decoder.max_length == tokens
    ids = tiny.ids(1, tokens)
    h, _ = decoder.embed(ids)
    assert decoder.logits(h, ids).shape[1] == tokens
