"""Tiny random mixtures of experts, and other layers whose matrices no row of `families.py` names."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

import tiny
from lowrise.model.decoder import Decoder

_GATED = {**tiny.FAMILIES["llama"][1]}
_MIXTURE = {**_GATED, "num_experts_per_tok": 2}
_SHARED = {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}

# family -> (config class, settings)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**_MIXTURE, "num_local_experts": 4}),  # more inputs an expert than the stream is wide
    "qwen2_moe": ("Qwen2MoeConfig", _SHARED),  # a shared expert, times a number of its own for every token
    "qwen3_moe": ("Qwen3MoeConfig", {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}),
    "gpt_oss": ("GptOssConfig", {**_MIXTURE, "num_local_experts": 4, "head_dim": 8}),  # stored the other way, biased
    "deepseek_v3": (  # from the third layer on
        "DeepseekV3Config",
        {
            **_MIXTURE,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 2,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "llama4_text": (  # called once for every token and expert; every other layer
        "Llama4TextConfig",
        {**_GATED, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4, "interleave_moe_layer_step": 2},
    ),
    "granitemoe": ("GraniteMoeConfig", {**_MIXTURE, "num_local_experts": 4, "residual_multiplier": 0.22}),
    "cohere2_moe": ("Cohere2MoeConfig", {**_MIXTURE, "num_experts": 4}),  # beside attention
    "flex_olmo": ("FlexOlmoConfig", {**_MIXTURE, "num_experts": 4}),  # through a norm
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mpt": ("MptConfig", {"vocab_size": 300, "d_model": 32, "n_layers": 6, "n_heads": 4, "max_seq_len": 128}),
    "mamba": ("MambaConfig", {**tiny.COMMON, "state_size": 8, "time_step_rank": 8}),  # one block a layer
    "lfm2": (
        "Lfm2Config",
        {**_GATED, "block_multiple_of": 8, "layer_types": ["conv", "conv", "full_attention"] * 2},
    ),
    "gemma4_text": (  # a third block, and a number that each layer multiplies by
        "Gemma4TextConfig",
        {
            **_GATED,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 8,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": tiny.VOCABULARY,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        },
    ),
    "bert": ("BertConfig", {**tiny.FAMILIES["gpt_neox"][1], "is_decoder": True}),  # norms on the stream itself
}


def model(family: str, **changes: Any) -> Any:
    """A random model in float32 whose layers differ enough that skipping one shows."""
    name, settings = (FAMILIES | OTHERS)[family]
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**settings, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for number, (name, buffer) in enumerate(made.named_buffers()):
            if name.endswith("layer_scalar"):
                buffer.fill_(0.5 + 0.01 * number)
    return made.eval()


def decoder(family: str, **changes: Any) -> Decoder:
    return Decoder(model(family, **changes))
