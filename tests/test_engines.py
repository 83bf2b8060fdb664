"""What serving engines do with a folder: folders whose fate is known, and restrictions that agree with it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lowrise.engines import ENGINES, check, restrictions
from lowrise.errors import ModelError, RecipeError
from lowrise.planned import settings_of
from lowrise.recipe import build_recipe, read_recipe
from lowrise.settings import ENGINES as NAMES
from refusals import Main, assert_one_line

_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 1e5, "dtype": "bfloat16",
          "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}  # fmt: skip
_GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 256, "query_pre_attn_scalar": 256,
    "hidden_size": 640, "num_attention_heads": 4, "sliding_window": 512, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
}  # fmt: skip
_GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 128, "query_pre_attn_scalar": 144,
    "hidden_size": 4608, "num_attention_heads": 32, "sliding_window": 4096,
}  # fmt: skip


def _kinds(layers: int, every: int, gone: tuple[int, ...] = (), full: str = "full_attention") -> list[str]:
    """Of a stack whose every so many layers is full, after some are gone."""
    names = [full if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    return [name for i, name in enumerate(names) if i not in gone]


def _folder(
    place: Path, config: dict[str, Any], layers: int, *files: str, tokenizer: dict[str, Any] | None = None
) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps(tokenizer or {}), encoding="utf-8")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (place / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    for name in ("tokenizer.json", *files):
        (place / name).touch()
    return place


def _fates(folder: Path) -> dict[str, str]:
    return {verdict.engine: verdict.fate for verdict in check(folder)}


RIGHT = dict.fromkeys(NAMES, "opens")
_COHERE2 = {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "rope_theta": 5e4, "sliding_window": 64}
_OSS = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "rope_theta": 15e4, "sliding_window": 128}
_EXAONE4 = {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "rope_theta": 1e6, "sliding_window": 64,
            "sliding_window_pattern": "LLLG"}  # fmt: skip
_SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "rope_theta": 2e6}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6, "sliding_window": 64}
_OWN = {"architectures": ["LowriseForCausalLM"], "model_type": "lowrise-llama", "auto_map": {"AutoConfig": "m.C"}}

_MROPE = {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
          "rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [16, 24, 24]}}  # fmt: skip
_LLAMA4 = {"model_type": "llama4_text", "interleave_moe_layer_step": 1, "rope_theta": 5e5,
           "rope_scaling": {"rope_type": "llama3"},
           "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"}}  # fmt: skip


def _wrapped(name: str, family: str, text: dict[str, Any], layers: int = 6) -> dict[str, Any]:
    """The config of a multimodal model whose head is its own, as its text's says."""
    inner = {"tie_word_embeddings": False, **text, "num_hidden_layers": layers}
    inner["layer_types"] = [kind.replace("sliding", "chunked") for kind in inner.get("layer_types", [])] or None
    return {"architectures": [f"{name}ForConditionalGeneration"], "model_type": family, "tie_word_embeddings": False,
            "text_config": inner}  # fmt: skip


# name -> (config, layers, files, tokenizer_config.json, what differs from being right everywhere)
FOLDERS: dict[str, tuple[dict[str, Any], int, list[str], dict[str, Any], dict[str, str]]] = {
    # SmolLM2-135M's cut: run in llama.cpp, vLLM and transformers 4.57.6 (docs/engines.md)
    "llama": (_LLAMA, 22, [], {}, {}),
    # Gemma-3-270M: the full layers 5, 11 and 17 are 4, 7 and 13 then
    "gemma3-2-8-9-14": (
        {**_GEMMA3, "layer_types": _kinds(18, 6, (2, 8, 9, 14))}, 14, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # the same inside a wrapper around it
    "gemma3-wrapped": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "text_config": {**_GEMMA3, "num_hidden_layers": 14, "layer_types": _kinds(18, 6, (2, 8, 9, 14))}},
        14, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # the full layers 5 and 11 stay where they are
    "gemma3-12-13-14-17": ({**_GEMMA3, "layer_types": _kinds(18, 6, (12, 13, 14, 17))}, 14, [], {}, {}),
    # mlx-lm takes its mask of full attention from the cache of layer 5
    "gemma3-short": ({**_GEMMA3, "layer_types": _kinds(4, 6)}, 4, [], {}, {"mlx": "refuses"}),
    # the 27B model's scale of attention, hidden size over heads, at its own 46 layers alone
    "gemma2-27b": ({**_GEMMA2, "layer_types": _kinds(46, 2)}, 46, ["tokenizer.model"], {}, {}),
    "gemma2-27b-cut": ({**_GEMMA2, "layer_types": _kinds(44, 2)}, 44, ["tokenizer.model"], {}, {"llama.cpp": "wrong"}),
    "gemma2-no-tokenizer-model": ({**_GEMMA2, "layer_types": _kinds(46, 2)}, 46, [], {}, {"llama.cpp": "refuses"}),
    "cohere2": (
        {**_COHERE2, "layer_types": _kinds(8, 4, (1,))}, 7, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # vLLM gives a window to even layers, whatever layer_types says; mlx-lm reads it
    "gpt-oss": (
        {**_OSS, "layer_types": _kinds(8, 2, (3,))}, 7, [], {}, {"llama.cpp": "wrong", "vllm": "wrong"},
    ),
    # b10359 goes by numbers, b11549 reads the list
    "olmo3": (
        {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "rope_theta": 5e5, "sliding_window": 64,
         "layer_types": _kinds(8, 4, (1,))}, 7, [], {}, {"llama.cpp": "unknown"},
    ),
    # windows at 64 layers alone
    "exaone4": ({**_EXAONE4, "layer_types": _kinds(60, 4)}, 60, [], {}, {"llama.cpp": "wrong"}),
    "exaone4-whole": ({**_EXAONE4, "layer_types": _kinds(64, 4)}, 64, [], {}, {}),
    # period letters that are gone from the config: mlx-lm has no default for them
    "exaone4-no-letters": (
        {**_EXAONE4, "sliding_window_pattern": None, "layer_types": _kinds(64, 4, (1,))}, 63, [], {},
        {"llama.cpp": "wrong", "mlx": "refuses"},
    ),
    "smollm3": (
        {**_SMOLLM3, "no_rope_layers": [1, 1, 0, 1, 1, 1, 0], "layer_types": ["full_attention"] * 7}, 7, [], {},
        {"llama.cpp": "wrong"},
    ),
    # llama.cpp and mlx-lm give no layer of this family a window, before the cut as after
    "qwen3-mixed": (
        {**_QWEN3, "use_sliding_window": True, "max_window_layers": 2,
         "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 4}, 6, [], {}, {"vllm": "refuses"},
    ),
    "published-form": (
        _OWN, 6, [], {}, {"vllm": "refuses", "llama.cpp": "refuses", "mlx": "refuses", "transformers4": "unknown"},
    ),
    # theta is 10,000 for whoever reads the words of transformers 4
    "rope-of-5-alone": (
        {key: value for key, value in _LLAMA.items() if key != "rope_theta"}, 6, [], {},
        {"transformers4": "wrong", "mlx": "wrong"},
    ),
    "tokenizer-of-5": (_LLAMA, 6, [], {"tokenizer_class": "TokenizersBackend"}, {"transformers4": "refuses"}),
    "minicpm3": (
        {"architectures": ["MiniCPM3ForCausalLM"], "model_type": "minicpm3", "scale_depth": 1.2}, 6,
        ["tokenizer.model"], {}, {"llama.cpp": "wrong", "transformers4": "refuses"},
    ),
    # as transformers 5 writes it: transformers 4 makes attention of whatever is not `mamba`
    "granite-4": (
        {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
         "layer_types": ["linear_attention", "full_attention"] * 3}, 6, [], {},
        {"transformers4": "wrong", "llama.cpp": "refuses", "mlx": "refuses"},
    ),
    # 27 layers are a Lite model there, whose queries are not compressed
    "deepseek-v2-lite": (
        {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": None}, 27, [], {}, {},
    ),
    "deepseek-v2-lite-cut": (
        {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": None}, 24, [], {},
        {"llama.cpp": "refuses"},
    ),
    # keys and values are shared from layer 20 on in llama.cpp; mlx-lm knows the wrapper alone
    "gemma3n": (
        {"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text", "num_kv_shared_layers": 10,
         "layer_types": _kinds(30, 5)}, 30, [], {}, {"mlx": "refuses"},
    ),
    "gemma3n-cut": (
        {"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text", "num_kv_shared_layers": 10,
         "layer_types": _kinds(25, 5)}, 25, [], {}, {"mlx": "refuses", "llama.cpp": "wrong"},
    ),
    "opt": (
        {"architectures": ["OPTForCausalLM"], "model_type": "opt"}, 6, [], {},
        {"llama.cpp": "refuses", "mlx": "refuses"},
    ),
    "never-heard-of": (
        {"architectures": ["NewForCausalLM"], "model_type": "new"}, 6, [], {},
        {"vllm": "unknown", "llama.cpp": "refuses", "mlx": "refuses", "transformers4": "refuses"},
    ),
    "qwen2.5-vl": (_wrapped("Qwen2_5_VL", "qwen2_5_vl", {**_MROPE, "model_type": "qwen2_5_vl_text"}), 6, [], {}, {}),
    # transformers 4 looks for mrope_section in rope_scaling; mlx-lm takes a head that text_config is silent of for tied
    "qwen2.5-vl-in-words-of-5": (
        {**_wrapped("Qwen2_5_VL", "qwen2_5_vl", {}), "text_config": {
            "model_type": "qwen2_5_vl_text", "num_hidden_layers": 6, "rope_parameters": _MROPE["rope_parameters"]}},
        6, [], {}, {"transformers4": "refuses", "mlx": "refuses"},
    ),
    "qwen3-vl": (_wrapped("Qwen3VL", "qwen3_vl", {**_MROPE, "model_type": "qwen3_vl_text"}), 6, [], {}, {}),
    "qwen3-vl-moe": (
        _wrapped("Qwen3VLMoe", "qwen3_vl_moe", {**_MROPE, "model_type": "qwen3_vl_moe_text"}), 6, [], {},
        {"mlx": "unknown", "transformers4": "refuses"},
    ),
    "mistral-3": (
        _wrapped("Mistral3", "mistral3", {**_LLAMA, "model_type": "mistral", "sliding_window": None}), 6, [], {}, {},
    ),
    "mistral-3-tied": (
        {**_wrapped("Mistral3", "mistral3", {**_LLAMA, "model_type": "mistral", "sliding_window": None}),
         "tie_word_embeddings": True}, 6, [], {}, {"transformers4": "wrong", "mlx": "refuses"},
    ),
    "mistral-3-around-4": (
        _wrapped("Mistral3", "mistral3", {**_LLAMA, "model_type": "mistral4"}), 6, [], {},
        dict.fromkeys(NAMES[1:], "unknown"),
    ),
    # llama.cpp's converter goes by the class that the text's config names
    "smolvlm": (
        _wrapped("SmolVLM", "smolvlm", {**_LLAMA, "architectures": ["VLlama3ForCausalLM"]}), 6, [], {},
        {"mlx": "refuses"},
    ),
    "smolvlm-without-a-class": (
        _wrapped("SmolVLM", "smolvlm", {**_LLAMA, "architectures": None}), 6, [], {},
        {"mlx": "refuses", "llama.cpp": "refuses"},
    ),
    "internvl": (
        _wrapped("InternVL", "internvl", {**_QWEN3, "rope_parameters": {"rope_theta": 1e6}}), 6, [], {},
        {"mlx": "refuses"},
    ),
    "llama-4": (_wrapped("Llama4", "llama4", _LLAMA4 | {"layer_types": _kinds(8, 4, (), "full_attention")}, 8), 8, [],
                {}, {}),
    "llama-4-cut": (
        _wrapped("Llama4", "llama4", _LLAMA4 | {"layer_types": _kinds(8, 4, (1,), "full_attention")}, 7), 7, [], {},
        {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    "quantized": (
        {**_LLAMA, "quantization_config": {"quant_method": "fp8"}}, 6, [], {},
        dict.fromkeys(NAMES[1:], "unknown"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_fate_of_a_folder(name: str, tmp_path: Path) -> None:
    config, layers, files, tokenizer, others = FOLDERS[name]
    folder = _folder(tmp_path / "made", config, layers, *files, tokenizer=tokenizer)
    assert _fates(folder) == {**RIGHT, **others}


def test_the_reason_names_the_first_layer_that_is_misread(tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["gemma3-2-8-9-14"]
    (verdict,) = check(_folder(tmp_path / "made", config, layers), ["llama.cpp"])
    assert verdict.because == (
        "it takes every 6th layer for full attention, by its number: layer 4 is full attention and read as sliding "
        "attention, 5 of 14 layers in all",
    )


def test_a_window_is_a_limit_that_the_model_has_before_its_cut(tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["qwen3-mixed"]
    (verdict,) = check(_folder(tmp_path / "made", config, layers), ["mlx"])
    assert verdict.fate == "opens"
    assert verdict.because == ("equal up to 64 tokens: no layer has a sliding window there",)


# whole models, with how a list follows a cut
_WHOLE = {
    "gemma3": ({**_GEMMA3, "layer_types": _kinds(9, 3)}, 9),
    "gemma2": ({**_GEMMA2, "query_pre_attn_scalar": 128, "layer_types": _kinds(8, 2)}, 8),
    "cohere2": ({**_COHERE2, "layer_types": _kinds(9, 4)}, 9),
    "gpt_oss": ({**_OSS, "layer_types": _kinds(8, 2)}, 8),
    "exaone4": ({**_EXAONE4, "layer_types": _kinds(8, 4)}, 8),
    "smollm3": ({**_SMOLLM3, "no_rope_layers": [1, 1, 1, 0] * 2, "layer_types": ["full_attention"] * 8}, 8),
    "qwen3": ({**_QWEN3, "use_sliding_window": True, "layer_types": _kinds(8, 2)}, 8),
    "llama": (_LLAMA, 6),
    "granite-4": ({"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
                   "layer_types": ["linear_attention", "full_attention"] * 4}, 8),
    "qwen3_next": ({"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "rope_theta": 1e6,
                    "layer_types": [kind.replace("sliding", "linear") for kind in _kinds(9, 4)]}, 9),
    "llama4": ({"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text", "moe_layers": [1, 3, 5, 7],
                "interleave_moe_layer_step": 2,
                "layer_types": [kind.replace("sliding", "chunked") for kind in _kinds(8, 4)]}, 8),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp", "mlx", "transformers4"])
@pytest.mark.parametrize("name", _WHOLE)
def test_restrictions_allow_the_cuts_that_are_read_right(name: str, engine: str, tmp_path: Path) -> None:
    """Of every cut of a small stack, and every engine."""
    config, layers = _WHOLE[name]
    whole = {**config, "num_hidden_layers": layers}
    if (engine, name) == ("mlx", "llama4"):
        with pytest.raises(RecipeError, match=r"llama4_text.*nothing is known there"):
            restrictions(whole, [engine])
        return
    found = restrictions(whole, [engine])
    folder = _folder(tmp_path / "made", config, layers, "tokenizer.model")
    for kept in range(6, layers):
        for stay in combinations(range(layers), kept):
            cut = {
                key: [value[i] for i in stay] if isinstance(value, list) and len(value) == layers else value
                for key, value in config.items()
            }
            if "moe_layers" in config:
                cut["moe_layers"] = [new for new, old in enumerate(stay) if old in config["moe_layers"]]
            (folder / "config.json").write_text(json.dumps({**cut, "num_hidden_layers": kept}), encoding="utf-8")
            (verdict,) = check(folder, [engine])
            allowed = all(one.allows(stay) for one in found)
            if (engine, name) == ("mlx", "gpt_oss"):  # one kind alone is refused, which is no matter of order
                assert allowed
                continue
            assert allowed == (verdict.fate == "opens"), (stay, verdict)


def test_restrictions_of_the_text_of_a_multimodal_model() -> None:
    config, layers, *_ = FOLDERS["llama-4"]
    (kinds, experts) = restrictions({**config, "num_hidden_layers": layers}, ["llama.cpp"])
    assert kinds.reason == "llama.cpp takes every 4th layer for full attention, by its number"
    assert experts.allows([0, 1, 2, 3])
    assert kinds.allows([0, 1, 2, 3]) and not kinds.allows([0, 1, 2, 4])
    with pytest.raises(RecipeError, match=r"\(mistral3 around mistral4\), of which nothing is known"):
        restrictions(FOLDERS["mistral-3-around-4"][0] | {"architectures": None}, ["vllm"])


def test_restrictions_of_a_config_in_memory() -> None:
    """Which says no architecture."""
    import tiny

    (found,) = restrictions(tiny.config("gemma3_text"), ["llama.cpp", "vllm"])
    assert found.kinds == ("sliding_attention",) * 5 + ("full_attention",)
    assert found.reason == "llama.cpp takes every 6th layer for full attention, by its number"


def test_restrictions_of_a_depth() -> None:
    whole = {**_GEMMA2, "layer_types": _kinds(46, 2), "num_hidden_layers": 46}
    reasons = {one.reason: one for one in restrictions(whole, ["llama.cpp"])}
    scale = reasons["llama.cpp takes the scale of attention from the number of layers"]
    assert len(scale.patterns(46)) == 1
    assert not scale.patterns(44)


def test_restrictions_refuse_what_no_engine_is_known_for() -> None:
    with pytest.raises(RecipeError, match="--for vllm: expected a model that vLLM reads, found NewForCausalLM"):
        restrictions({"architectures": ["NewForCausalLM"], "model_type": "new", "num_hidden_layers": 4}, ["vllm"])
    with pytest.raises(RecipeError, match="which it refuses"):
        restrictions({"architectures": ["OPTForCausalLM"], "model_type": "opt", "num_hidden_layers": 4}, ["mlx"])


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        ({**_GEMMA3, "layer_types": ["full_attention"]}, "14 entries of layer_types"),
        ({**_LLAMA, "num_hidden_layers": "many"}, "the number of decoder layers"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(config: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "made", {}, 14)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 14, **config}), encoding="utf-8")
    with pytest.raises(ModelError, match=fragment):
        check(folder)


def test_no_value_of_a_config_is_a_traceback(tmp_path: Path) -> None:
    """Every key that a rule looks at, with a value of another type than it should have."""
    folder = _folder(tmp_path / "made", {}, 6)
    keys = ["layer_types", "no_rope_layers", "sliding_window", "sliding_window_pattern", "head_dim", "hidden_size",
            "num_attention_heads", "query_pre_attn_scalar", "scale_depth", "rope_theta", "rope_parameters",
            "rope_scaling", "max_window_layers", "use_sliding_window", "partial_rotary_factor", "mlp_only_layers",
            "decoder_sparse_step", "rope_local_base_freq", "dtype", "architectures", "text_config"]  # fmt: skip
    values = [None, 0, -1, 2.5, "", "LLLG", True, [], [1] * 6, [[]] * 6, {}, {"full_attention": 1}, {"a": {"b": 1}}]
    families = sorted({fact.family for engine in ENGINES.values() for fact in engine.facts})
    random = Random(0)
    for family in families:
        for _ in range(12):
            config = {key: random.choice(values) for key in random.sample(keys, 6)}
            config = {"architectures": ["GemmaForCausalLM"], **config, "model_type": family, "num_hidden_layers": 6}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            with suppress(ModelError):
                check(folder)
            with suppress(ModelError, RecipeError):
                for one in restrictions(config, NAMES):
                    one.allows([0, 2, 3])


def test_for_in_a_recipe_is_a_list_or_names_between_commas(tmp_path: Path) -> None:
    for said in ("[vllm, llama.cpp]", "vllm, llama.cpp"):
        (tmp_path / "recipe.yaml").write_text(f"for: {said}\n", encoding="utf-8")
        assert build_recipe(read_recipe(tmp_path / "recipe.yaml")).for_engines == ["vllm", "llama.cpp"]
    with pytest.raises(RecipeError, match=r"r\.yaml: for: expected one of transformers"):
        build_recipe({"for": ["vlm"]}, where="r.yaml")


def test_a_plan_says_engines_if_any_are_named() -> None:
    assert "for" not in settings_of(build_recipe({}), None)
    assert settings_of(build_recipe({"for": "mlx"}), None)["for"] == ["mlx"]


def test_every_row_has_a_source_and_every_engine_a_version() -> None:
    assert tuple(ENGINES) == NAMES
    for engine in ENGINES.values():
        assert engine.version
        assert all(fact.source and fact.says and fact.family for fact in engine.facts)
        assert engine.families is None or {fact.family for fact in engine.facts} <= engine.families


def test_facts_import_no_torch() -> None:
    code = "import sys, lowrise.engines; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_run_names_the_engines_that_would_misread_its_output(main: Main, tmp_path: Path, text_file: Path) -> None:
    """A tiny Gemma-3 whose one full layer is the last of six: without another one it is the fifth."""
    import tiny

    model, out = tiny.save(tmp_path / "model", "gemma3_text"), tmp_path / "out"
    given = ["--layers", "1", "--text", text_file, "--eval-text", text_file, "--windows", "1", "--length", "32"]
    status, printed, _ = main("run", model, *given, "--samples", "4", "--device", "cpu", "--out", out, "--quiet")
    assert status == 0
    assert printed.splitlines()[-1] == f"written to {out}; llama.cpp reads it WRONG: see `lowrise check`"
    results = json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))
    assert [(one["engine"], one["fate"]) for one in results["engines"]] == [
        (verdict.engine, verdict.fate) for verdict in check(out)
    ]
    for place in ("README.md", "lowrise/report.html"):
        assert "Misread by llama.cpp" in (out / place).read_text(encoding="utf-8")


def test_run_for_engines_makes_what_they_read_right(main: Main, tmp_path: Path, text_file: Path) -> None:
    """Of eight layers the sixth is full: only the two behind it can go."""
    import tiny

    model, out = tiny.save(tmp_path / "model", "gemma3_text", num_hidden_layers=8), tmp_path / "out"
    given = ["--preset", "streamline-none", "--remove", "1", "--text", text_file, "--eval-text", text_file]
    given += ["--windows", "1", "--length", "32", "--samples", "4", "--device", "cpu", "--out", out, "--quiet"]
    status, printed, err = main("run", model, *given, "--for", "llama.cpp,mlx")
    assert (status, printed.splitlines()[-1]) == (0, f"written to {out}"), err
    plan = json.loads((out / "lowrise" / "plan.json").read_text(encoding="utf-8"))
    assert plan["settings"]["for"] == ["llama.cpp", "mlx"]
    assert plan["edits"][0]["start"] in (6, 7)
    assert main("check", out, "--for", "llama.cpp,mlx")[0] == 0


def test_run_for_an_engine_that_does_not_open_the_model_is_refused(main: Main, tmp_path: Path) -> None:
    import tiny

    model = tiny.save(tmp_path / "model", "opt")
    answer = main("run", model, "--for", "mlx", "--out", tmp_path / "out", "--remove", "1", "--quiet")
    assert_one_line(*answer, ("--for mlx: expected a model that MLX reads, found OPTForCausalLM (opt)",))


def test_a_gguf_file_is_one_line(main: Main, tmp_path: Path) -> None:
    """What llama.cpp takes by a layer's number stands in no GGUF file, so nothing can be compared."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    fragments = (
        "model.gguf: expected the folder of a model, found a GGUF file",
        "check the folder that it was made of",
    )
    assert_one_line(*main("check", file), fragments)


def test_check_by_the_command_line(main: Main, tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["gemma3-2-8-9-14"]
    folder = _folder(tmp_path / "made", config, layers)
    status, printed, _ = main("check", folder)
    assert (status, len(printed.splitlines())) == (0, len(NAMES))
    assert main("check", folder, "--for", "vllm, transformers4")[0] == 0
    status, printed, err = main("check", folder, "--for", "vllm,llama.cpp", "--json")
    assert (status, err) == (1, "")
    assert [(one["engine"], one["fate"]) for one in json.loads(printed)] == [("vllm", "opens"), ("llama.cpp", "wrong")]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["check", "nowhere"], "nowhere: expected the folder of a model, found nothing"),
        (
            ["check", "nowhere", "--for", "vlm"],
            "--for: expected one of transformers, transformers4, vllm, llama.cpp, mlx",
        ),
        (
            ["run", "m", "--preset", "streamline-ffn", "--for", "mlx", "--out", "o"],
            "--for mlx: expected a preset whose",
        ),
    ],
)
def test_refusals(main: Main, arguments: list[str], fragment: str) -> None:
    assert_one_line(*main(*arguments), (fragment,))
