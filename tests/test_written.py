"""What a written checkpoint folder holds: settings that follow the cut, files that come along, and its proof."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import tiny
from cuts import config_of, cut, logits
from lowrise.errors import ModelError, ProofError
from lowrise.model import checkpoint
from lowrise.model.cached import disagreement
from lowrise.model.decoder import Decoder
from refusals import PLAIN, Main, assert_one_line, copied, edit_config

SLIDING, FULL = "sliding_attention", "full_attention"


def saved(folder: Path, config: Any, times: float = 1.0) -> Path:
    """A random model of that config as a user would have it, its weights so many times what they are made as."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(times)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def exaone4(**changes: Any) -> Any:
    settings = {**tiny.FAMILIES["llama"][1], "sliding_window": 8, "sliding_window_pattern": 3, **changes}
    return transformers.Exaone4Config(**settings)


class TestPeriods:
    """Layers 2 and 5 of six are full."""

    def test_one_that_no_longer_describes_the_stack_is_removed(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "model", exaone4())
        assert config_of(folder)["sliding_window_pattern"] == 3
        reloaded = cut(folder, tmp_path / "out", 0, 1)
        config = config_of(tmp_path / "out")
        assert config["layer_types"] == [SLIDING, FULL, SLIDING, SLIDING, FULL]
        assert "sliding_window_pattern" not in config
        assert torch.equal(
            logits(reloaded.model, tiny.ids()),
            logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), tiny.ids()),
        )

    def test_one_that_still_does_stays(self, tmp_path: Path) -> None:
        cut(saved(tmp_path / "model", exaone4()), tmp_path / "out", 0, 3)
        assert config_of(tmp_path / "out")["sliding_window_pattern"] == 3

    def test_letters_in_turn(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "model", exaone4())
        edit_config(folder, sliding_window_pattern="LLG")
        cut(folder, tmp_path / "same", 0, 3)
        cut(folder, tmp_path / "other", 0, 1)
        assert config_of(tmp_path / "same")["sliding_window_pattern"] == "LLG"
        assert "sliding_window_pattern" not in config_of(tmp_path / "other")

    @pytest.mark.parametrize("name", ["_sliding_window_pattern", "sliding_window_pattern"])
    def test_of_gemma3(self, tmp_path: Path, name: str) -> None:
        """The first word is of transformers 5, the second of 4; what the family itself ignores is removed too."""
        folder = tiny.save(tmp_path / "model", "gemma3_text")
        edit_config(folder, **{"_sliding_window_pattern": None, name: 6, "full_attention_interval": 6})
        cut(folder, tmp_path / "out", 0, 1)
        assert not {name, "full_attention_interval"} & config_of(tmp_path / "out").keys()

    def test_of_layers_without_rotary_positions(self, tmp_path: Path) -> None:
        config = transformers.SmolLM3Config(**tiny.FAMILIES["llama"][1], no_rope_layer_interval=3)
        folder = saved(tmp_path / "model", config)
        cut(folder, tmp_path / "same", 0, 3)
        cut(folder, tmp_path / "other", 0, 1)
        assert config_of(tmp_path / "same")["no_rope_layer_interval"] == 3
        assert "no_rope_layer_interval" not in config_of(tmp_path / "other")

    def test_a_boundary_beside_a_list_moves(self, tmp_path: Path) -> None:
        """The first two layers are dense, then sparse ones follow: the list says so, and a number."""
        experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
        kinds = ["dense"] * 2 + ["sparse"] * 4
        config = transformers.ExaoneMoeConfig(
            **tiny.FAMILIES["llama"][1], **experts, mlp_layer_types=kinds, first_k_dense_replace=2, n_group=1,
            topk_group=1,
        )  # fmt: skip
        cut(saved(tmp_path / "model", config), tmp_path / "out", 1, 3)
        assert config_of(tmp_path / "out")["mlp_layer_types"] == ["dense"] + ["sparse"] * 3
        assert config_of(tmp_path / "out")["first_k_dense_replace"] == 1

    @pytest.mark.parametrize(("start", "stop", "pattern"), [(2, 4, 4), (0, 2, None)])
    def test_what_the_layers_read_is_corrected_or_refused(
        self, monkeypatch: pytest.MonkeyPatch, start: int, stop: int, pattern: int | None
    ) -> None:
        """A family whose layers compute from the period, though the list stands beside it."""
        from transformers.models.llama.modeling_llama import LlamaAttention

        plain = LlamaAttention.__init__

        def by_period(self: Any, config: Any, layer_idx: int) -> None:
            plain(self, config, layer_idx)
            period = getattr(config, "sliding_window_pattern", 100)
            self.window = 8 if (layer_idx + 1) % period else None

        monkeypatch.setattr(LlamaAttention, "__init__", by_period)
        kinds = [SLIDING, SLIDING, FULL] * 2
        decoder = Decoder(tiny.model("llama", layer_types=kinds, sliding_window_pattern=3))
        if pattern is None:
            with pytest.raises(ModelError, match=r"self_attn\.window is .* but a fresh load of the new config gives"):
                decoder.check_cut([layer for layer in range(6) if not start <= layer < stop])
        else:
            decoder.drop(start, stop)
            assert decoder.config.sliding_window_pattern == pattern


def minicpm3() -> Any:
    sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    settings = {**tiny.FAMILIES["llama"][1], **sizes, "num_key_value_heads": 4, "dim_model_base": 16}
    return transformers.MiniCPM3Config(**settings, scale_depth=1.4)


class TestScaledByDepth:
    """Each residual is scaled by scale_depth / sqrt(layers): 1.4 / sqrt(6) stays what it is with 4 layers."""

    def test_the_scale_follows_the_cut(self, tmp_path: Path) -> None:
        folder = saved(tmp_path / "model", minicpm3())
        skipping = AutoModelForCausalLM.from_pretrained(folder)
        del skipping.model.layers[1:3]
        for index, layer in enumerate(skipping.model.layers):
            layer.self_attn.layer_idx = index
        reloaded = cut(folder, tmp_path / "out")
        assert config_of(tmp_path / "out")["scale_depth"] == pytest.approx(1.4 * (4 / 6) ** 0.5, rel=1e-12)
        assert torch.equal(logits(reloaded.model, tiny.ids()), logits(skipping, tiny.ids()))

    @pytest.mark.parametrize("preset", ["refit-span", "replaceme", "streamline-none"])
    def test_by_the_command(self, main: Main, text_file: Path, tmp_path: Path, preset: str) -> None:
        folder, out = saved(tmp_path / "model", minicpm3()), tmp_path / "out"
        arguments = ["--preset", preset, "--remove", 2, "--length", 32, "--samples", 8, "--device", "cpu", "--quiet"]
        status, _, errors = main("run", folder, *arguments, "--text", text_file, "--out", out)
        assert status == 0, errors
        assert config_of(out)["scale_depth"] == pytest.approx(1.4 * (4 / 6) ** 0.5, rel=1e-12)


COMPANIONS = {
    "LICENSE": "the licence",
    "LICENSE-weights.txt": "another",
    "Notice.md": "who made it",
    "USE_POLICY.md": "what for",
    "tokenizer.model": "sentencepiece",
    "added_tokens.json": "{}",
    "special_tokens_map.json": '{"bos_token": "<s>"}',
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool.jinja": "{{ tools }}",
    "generation_config.json": '{"temperature": 0.5, "do_sample": true}',
    "preprocessor_config.json": "{}",
}


class TestCompanions:
    def test_files_come_along_byte_by_byte(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        folder, out = copied(tmp_path / "model", tiny_folder), tmp_path / "out"
        (folder / "additional_chat_templates").mkdir()
        for name, content in COMPANIONS.items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "optimizer.pt").write_bytes(b"left behind")
        file = folder / "tokenizer_config.json"
        file.write_text(file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"), encoding="utf-8")
        status, _, errors = main("run", folder, *PLAIN, "--text", text_file, "--out", out)
        assert status == 0, errors
        for name in [*COMPANIONS, "tokenizer.json", "tokenizer_config.json"]:
            assert (out / name).read_bytes() == (folder / name).read_bytes(), name
        assert not (out / "optimizer.pt").exists()

    def test_code_that_stock_types_do_not_need_is_forgotten(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder, out = copied(tmp_path / "model", tiny_folder), tmp_path / "out"
        edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
        (folder / "modeling_own.py").write_text("raise SystemExit", encoding="utf-8")
        cut(folder, out)
        assert "auto_map" not in config_of(out)
        assert not (out / "modeling_own.py").exists()

    def test_code_that_the_user_allowed_comes_along_and_is_not_asked_for_again(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        folder, out = copied(tmp_path / "model", tiny_folder), tmp_path / "out"
        own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
        edit_config(folder, model_type="own", auto_map=own, architectures=["OwnForCausalLM"])
        code = """
            from transformers import LlamaConfig, LlamaForCausalLM

            class OwnConfig(LlamaConfig):
                model_type = "own"

            class OwnForCausalLM(LlamaForCausalLM):
                config_class = OwnConfig
        """
        (folder / "modeling_own.py").write_text(dedent(code), encoding="utf-8")
        allowed = [*PLAIN, "--text", text_file, "--trust-remote-code"]
        for source, made in [(folder, out), (out, tmp_path / "again")]:
            status, _, errors = main("run", source, *allowed, "--out", made, "--remove", 1)
            assert status == 0, errors
            assert (made / "modeling_own.py").read_bytes() == (folder / "modeling_own.py").read_bytes()
            assert config_of(made)["auto_map"] == own
        assert len(AutoModelForCausalLM.from_pretrained(made, trust_remote_code=True).model.layers) == 4


class TestPublishedForm:
    @pytest.fixture
    def published(self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> Path:
        out, recipe = tmp_path / "published", tmp_path / "recipe.yaml"
        recipe.write_text("training: {epochs: 1}\n")
        arguments = [*PLAIN, "--preset", "streamline-ffn", "--recipe", recipe, "--text", text_file, "--out", out]
        status, _, errors = main("run", tiny_folder, *arguments)
        assert status == 0, errors
        return out

    def test_it_reopens_with_the_same_permission(
        self, main: Main, published: Path, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        where = ["--text", text_file, "--length", 32, "--windows", 2, "--device", "cpu", "--quiet"]
        results = tmp_path / "results.json"
        said = main("measure", published, *where, "--out", results)
        assert_one_line(*said, (published, "--trust-remote-code"))
        status, _, errors = main("measure", published, *where, "--trust-remote-code", "--out", results,
                                 "--dense", tiny_folder)  # fmt: skip
        assert status == 0, errors

    def test_pruning_it_again_is_refused(self, main: Main, published: Path, text_file: Path, tmp_path: Path) -> None:
        arguments = [*PLAIN, "--text", text_file, "--trust-remote-code", "--out", tmp_path / "out"]
        assert_one_line(*main("run", published, *arguments), (published, "a network in its published form"))


class TestProof:
    @pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
    def test_a_mixture_of_experts_in_half_precision(self, tmp_path: Path, dtype: str) -> None:
        """Rounding alone lets its routers choose other experts: in bfloat16 it differs from itself by more than 5%."""
        settings = {**tiny.FAMILIES["llama"][1], "num_local_experts": 8, "num_experts_per_tok": 1}
        folder, out = saved(tmp_path / "model", transformers.MixtralConfig(**settings), times=4), tmp_path / "out"
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
        reloaded = cut(folder, out, dtype=dtype)
        rows = tiny.ids(rows=8)
        found = disagreement(reloaded.model, rows)
        assert found > 0.05 if dtype == "bfloat16" else found < 1e-5

    def test_a_cache_that_is_wrong_is_found(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The dense model agrees with itself, so what the cut one loses shows."""
        monkeypatch.setattr(
            checkpoint,
            "disagreement",
            lambda m, ids: 0.5 if len(m.model.layers) < tiny.LAYERS else disagreement(m, ids),
        )
        with pytest.raises(ProofError, match="cached and uncached logits differ by 50"):
            cut(tiny_folder, tmp_path / "out")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_buffers_and_routers_are_in_the_formats_of_a_load(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """DeepSeek-V3 keeps the correction of its routers in float32; it is a buffer."""
        torch.manual_seed(0)
        sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
        experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
                   "topk_group": 1, "first_k_dense_replace": 0}  # fmt: skip
        settings = {**tiny.FAMILIES["llama"][1], **sizes, **experts, "num_key_value_heads": 4}
        model = AutoModelForCausalLM.from_config(transformers.DeepseekV3Config(**settings))
        for name, buffer in model.named_buffers():
            if "correction" in name:
                buffer.copy_(torch.rand_like(buffer))
        folder, out = tmp_path / "model", tmp_path / "out"
        model.to(dtype).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        cut(folder, out)
        before, after = (AutoModelForCausalLM.from_pretrained(place, dtype="auto") for place in (folder, out))
        formats = {name: tensor.dtype for name, tensor in before.state_dict().items()}
        assert {name: tensor.dtype for name, tensor in after.state_dict().items()}.items() <= formats.items()
        assert after.dtype == dtype
