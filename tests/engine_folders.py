"""Folders of models as engines find them, and what becomes of each in which engine."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from lowrise.settings import ENGINES as NAMES

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 1e5, "dtype": "bfloat16",
          "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}  # fmt: skip
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 256, "query_pre_attn_scalar": 256,
    "hidden_size": 640, "num_attention_heads": 4, "sliding_window": 512, "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
}  # fmt: skip
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 128, "query_pre_attn_scalar": 144,
    "hidden_size": 4608, "num_attention_heads": 32, "sliding_window": 4096,
}  # fmt: skip


def kinds(layers: int, every: int, gone: tuple[int, ...] = (), full: str = "full_attention") -> list[str]:
    """Of a stack whose every so many layers is full, after some are gone."""
    names = [full if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    return [name for i, name in enumerate(names) if i not in gone]


def make_folder(
    place: Path,
    config: dict[str, Any],
    layers: int,
    *files: str,
    tokenizer: dict[str, Any] | None = None,
    tensor: str = "w",
) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps(tokenizer or {}), encoding="utf-8")
    header = json.dumps({tensor: {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (place / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    for name in ("tokenizer.json", *files):
        (place / name).touch()
    return place


COHERE2 = {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "rope_theta": 5e4, "sliding_window": 64}
OSS = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "rope_theta": 15e4, "sliding_window": 128}
EXAONE4 = {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "rope_theta": 1e6, "sliding_window": 64,
            "sliding_window_pattern": "LLLG"}  # fmt: skip
SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "rope_theta": 2e6}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6, "sliding_window": 64}
QWEN2_MOE = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "rope_theta": 1e6}
COHERE = {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "rope_theta": 1e4}
QWEN3_MOE = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "rope_theta": 1e6}
OWN = {"architectures": ["LowriseForCausalLM"], "model_type": "lowrise-llama", "auto_map": {"AutoConfig": "m.C"}}

MROPE = {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
          "rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [16, 24, 24]}}  # fmt: skip
LLAMA4 = {"model_type": "llama4_text", "interleave_moe_layer_step": 1, "rope_theta": 5e5,
           "rope_scaling": {"rope_type": "llama3"},
           "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"}}  # fmt: skip


def wrapped(name: str, family: str, text: dict[str, Any], layers: int = 6) -> dict[str, Any]:
    """The config of a multimodal model whose head is its own, as its text's says."""
    inner = {"tie_word_embeddings": False, **text, "num_hidden_layers": layers}
    inner["layer_types"] = [kind.replace("sliding", "chunked") for kind in inner.get("layer_types", [])] or None
    return {"architectures": [f"{name}ForConditionalGeneration"], "model_type": family, "tie_word_embeddings": False,
            "text_config": inner}  # fmt: skip


# name -> (config, layers, files, tokenizer_config.json, what differs from being right everywhere)
FOLDERS: dict[str, tuple[dict[str, Any], int, list[str], dict[str, Any], dict[str, str]]] = {
    # SmolLM2-135M's cut: run in llama.cpp, vLLM and transformers 4.57.6 (docs/engines.md)
    "llama": (LLAMA, 22, [], {}, {}),
    # Gemma-3-270M: the full layers 5, 11 and 17 are 4, 7 and 13 then
    "gemma3-2-8-9-14": (
        {**GEMMA3, "layer_types": kinds(18, 6, (2, 8, 9, 14))}, 14, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # the same inside a wrapper around it
    "gemma3-wrapped": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "text_config": {**GEMMA3, "num_hidden_layers": 14, "layer_types": kinds(18, 6, (2, 8, 9, 14))}},
        14, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # the full layers 5 and 11 stay where they are
    "gemma3-12-13-14-17": ({**GEMMA3, "layer_types": kinds(18, 6, (12, 13, 14, 17))}, 14, [], {}, {}),
    # mlx-lm takes its mask of full attention from the cache of layer 5
    "gemma3-short": ({**GEMMA3, "layer_types": kinds(4, 6)}, 4, [], {}, {"mlx": "refuses"}),
    # the 27B model's scale of attention, hidden size over heads, at its own 46 layers alone
    "gemma2-27b": ({**GEMMA2, "layer_types": kinds(46, 2)}, 46, ["tokenizer.model"], {}, {}),
    "gemma2-27b-cut": ({**GEMMA2, "layer_types": kinds(44, 2)}, 44, ["tokenizer.model"], {}, {"llama.cpp": "wrong"}),
    "gemma2-no-tokenizer-model": ({**GEMMA2, "layer_types": kinds(46, 2)}, 46, [], {}, {"llama.cpp": "refuses"}),
    "cohere2": (
        {**COHERE2, "layer_types": kinds(8, 4, (1,))}, 7, [], {}, {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    # vLLM gives a window to even layers, whatever layer_types says; mlx-lm reads it
    "gpt-oss": (
        {**OSS, "layer_types": kinds(8, 2, (3,))}, 7, [], {}, {"llama.cpp": "wrong", "vllm": "wrong"},
    ),
    # b10359 goes by numbers, b11549 reads the list
    "olmo3": (
        {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "rope_theta": 5e5, "sliding_window": 64,
         "layer_types": kinds(8, 4, (1,))}, 7, [], {}, {"llama.cpp": "unknown"},
    ),
    # windows at 64 layers alone
    "exaone4": ({**EXAONE4, "layer_types": kinds(60, 4)}, 60, [], {}, {"llama.cpp": "wrong"}),
    "exaone4-whole": ({**EXAONE4, "layer_types": kinds(64, 4)}, 64, [], {}, {}),
    # period letters that are gone from the config: mlx-lm has no default for them
    "exaone4-no-letters": (
        {**EXAONE4, "sliding_window_pattern": None, "layer_types": kinds(64, 4, (1,))}, 63, [], {},
        {"llama.cpp": "wrong", "mlx": "refuses"},
    ),
    "smollm3": (
        {**SMOLLM3, "no_rope_layers": [1, 1, 0, 1, 1, 1, 0], "layer_types": ["full_attention"] * 7}, 7, [], {},
        {"llama.cpp": "wrong"},
    ),
    # llama.cpp and mlx-lm give no layer of this family a window, before the cut as after
    "qwen3-mixed": (
        {**QWEN3, "use_sliding_window": True, "max_window_layers": 2,
         "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 4}, 6, [], {}, {"vllm": "refuses"},
    ),
    "published-form": (
        OWN, 6, [], {}, {"vllm": "refuses", "llama.cpp": "refuses", "mlx": "refuses", "transformers4": "unknown"},
    ),
    # theta is 10,000 for whoever reads the words of transformers 4
    "rope-of-5-alone": (
        {key: value for key, value in LLAMA.items() if key != "rope_theta"}, 6, [], {},
        {"transformers4": "wrong", "mlx": "wrong"},
    ),
    "tokenizer-of-5": (LLAMA, 6, [], {"tokenizer_class": "TokenizersBackend"}, {"transformers4": "refuses"}),
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
         "layer_types": kinds(30, 5)}, 30, [], {}, {"mlx": "refuses"},
    ),
    "gemma3n-cut": (
        {"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text", "num_kv_shared_layers": 10,
         "layer_types": kinds(25, 5)}, 25, [], {}, {"mlx": "refuses", "llama.cpp": "wrong"},
    ),
    "opt": (
        {"architectures": ["OPTForCausalLM"], "model_type": "opt"}, 6, [], {},
        {"llama.cpp": "refuses", "mlx": "refuses"},
    ),
    "never-heard-of": (
        {"architectures": ["NewForCausalLM"], "model_type": "new"}, 6, [], {},
        {**dict.fromkeys(NAMES, "refuses"), "vllm": "unknown"},
    ),
    "qwen2.5-vl": (wrapped("Qwen2_5_VL", "qwen2_5_vl", {**MROPE, "model_type": "qwen2_5_vl_text"}), 6, [], {}, {}),
    # transformers 4 looks for mrope_section in rope_scaling; mlx-lm takes a head that text_config is silent of for tied
    "qwen2.5-vl-in-words-of-5": (
        {**wrapped("Qwen2_5_VL", "qwen2_5_vl", {}), "text_config": {
            "model_type": "qwen2_5_vl_text", "num_hidden_layers": 6, "rope_parameters": MROPE["rope_parameters"]}},
        6, [], {}, {"transformers4": "refuses", "mlx": "refuses"},
    ),
    "qwen3-vl": (wrapped("Qwen3VL", "qwen3_vl", {**MROPE, "model_type": "qwen3_vl_text"}), 6, [], {}, {}),
    # llama.cpp looks for experts in every layer
    "qwen2-moe": ({**QWEN2_MOE, "mlp_only_layers": []}, 6, [], {}, {}),
    "qwen2-moe-with-a-dense-layer": (
        {**QWEN2_MOE, "mlp_only_layers": [3]}, 6, [], {}, {"llama.cpp": "unknown", "mlx": "unknown"},
    ),
    "ernie-4.5-moe-every-other": (
        {"architectures": ["Ernie4_5_MoeForCausalLM"], "model_type": "ernie4_5_moe", "moe_layer_interval": 2,
         "rope_theta": 5e5}, 6, [], {}, {"llama.cpp": "unknown"},
    ),
    # llama.cpp tells norms of queries and keys by 64 layers
    "command-r": ({**COHERE, "use_qk_norm": False}, 38, [], {}, {}),
    "command-r-plus": ({**COHERE, "use_qk_norm": True}, 64, [], {}, {}),
    "command-r-plus-cut": ({**COHERE, "use_qk_norm": True}, 56, [], {}, {"llama.cpp": "refuses"}),
    # transformers 5 writes num_local_experts; of 128 experts transformers 4 needs no word
    "qwen3-moe": ({**QWEN3_MOE, "num_experts": 8, "num_local_experts": 8}, 6, [], {}, {}),
    "qwen3-moe-in-words-of-5": (
        {**QWEN3_MOE, "num_local_experts": 8}, 6, [], {}, {"transformers4": "refuses", "mlx": "refuses"},
    ),
    "qwen3-moe-of-128-in-words-of-5": ({**QWEN3_MOE, "num_local_experts": 128}, 6, [], {}, {"mlx": "refuses"}),
    "qwen3-vl-moe": (
        wrapped("Qwen3VLMoe", "qwen3_vl_moe", {**MROPE, "model_type": "qwen3_vl_moe_text", "num_local_experts": 8}),
        6, [], {}, {"mlx": "unknown", "transformers4": "refuses"},
    ),
    "mistral-3": (
        wrapped("Mistral3", "mistral3", {**LLAMA, "model_type": "mistral", "sliding_window": None}), 6, [], {}, {},
    ),
    "mistral-3-tied": (
        {**wrapped("Mistral3", "mistral3", {**LLAMA, "model_type": "mistral", "sliding_window": None}),
         "tie_word_embeddings": True}, 6, [], {}, {"transformers4": "wrong", "mlx": "refuses"},
    ),
    "mistral-3-around-4": (
        wrapped("Mistral3", "mistral3", {**LLAMA, "model_type": "mistral4"}), 6, [], {},
        dict.fromkeys(NAMES[1:], "unknown"),
    ),
    # llama.cpp's converter goes by the class that the text's config names
    "smolvlm": (
        wrapped("SmolVLM", "smolvlm", {**LLAMA, "architectures": ["VLlama3ForCausalLM"]}), 6, [], {},
        {"mlx": "refuses"},
    ),
    "smolvlm-without-a-class": (
        wrapped("SmolVLM", "smolvlm", {**LLAMA, "architectures": None}), 6, [], {},
        {"mlx": "refuses", "llama.cpp": "refuses"},
    ),
    "internvl": (
        wrapped("InternVL", "internvl", {**QWEN3, "rope_parameters": {"rope_theta": 1e6}}), 6, [], {},
        {"mlx": "refuses"},
    ),
    "llama-4": (wrapped("Llama4", "llama4", LLAMA4 | {"layer_types": kinds(8, 4, (), "full_attention")}, 8), 8, [],
                {}, {}),
    "llama-4-cut": (
        wrapped("Llama4", "llama4", LLAMA4 | {"layer_types": kinds(8, 4, (1,), "full_attention")}, 7), 7, [], {},
        {"llama.cpp": "wrong", "mlx": "wrong"},
    ),
    "quantized": (
        {**LLAMA, "quantization_config": {"quant_method": "fp8"}}, 6, [], {},
        dict.fromkeys(NAMES[1:], "unknown"),
    ),
}  # fmt: skip
