"""Tiny random models of every causal type that the installed transformers knows, for `families.py` and the tests.

A type's config class is asked for its settings; those of a known name get a small value. `OWN` has what single types
need beside, mostly a pattern of layers of which each kind is there more than once.

A second model of each type has every switch the other way that its class has a default for: biases, tied embeddings,
norms and residuals in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 8
VOCABULARY = 300
_MOST = 20_000_000  # parameters: what cannot be made smaller than that is not built

_HIDDEN = ("hidden_size", "d_model", "n_embd", "n_embed", "embedding_size", "word_embed_proj_dim", "dim", "lru_width")
_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads")
_MIDDLE = (
    *("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff", "dim_ff"),
    *("intermediate_size_mlp", "ffn_hidden_size", "dense_intermediate_size", "prefix_dense_intermediate_size"),
)
_EXPERT = (
    *("moe_intermediate_size", "shared_expert_intermediate_size", "shared_experts_intermediate_size"),
    *("expert_ffn_hidden_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"),
)
_OF_HEAD = (
    *("head_dim", "dim_head", "swa_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_channels"),
    *("query_pre_attn_scalar", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "mamba_d_head"),
    *("mamba_head_dim", "mamba_headdim"),
)
_WINDOW = (
    *("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "local_attention"),
    *("keep_window_size", "attention_window_size", "index_topk", "chunk_size", "mamba_chunk_size", "block_size"),
)
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")

SETTINGS: dict[str, Any] = {
    **dict.fromkeys(_HIDDEN, 32),
    **dict.fromkeys(_DEPTH, LAYERS),
    **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(_MIDDLE, 48),
    **dict.fromkeys(_EXPERT, 16),
    **dict.fromkeys(_OF_HEAD, 8),
    **dict.fromkeys(_WINDOW, 8),
    **dict.fromkeys(_POSITIONS, 128),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "index_n_heads", "o_groups"), 2),
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), 300),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "zero_expert_num"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim", "qk_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_conv", "conv_kernel", "conv_kernel_size", "linear_conv_kernel_dim", "rotary_dim"), 4),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads", "swa_num_attention_heads", "laurel_rank"), 4),
    **dict.fromkeys(("d_rel", "gated_norm_rank", "make_ngram_vocab_size_divisible_by", "split_ngram_parts"), 4),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("linear_num_key_heads", "altup_num_inputs", "mamba_expand", "index_topk_blocks"), 2),
    **dict.fromkeys(("hidden_size_per_layer_input", "o_lora_rank", "hc_lowrank", "num_centroids"), 8),
    "attention_hidden_size": 64,
    "attn_layer_offset": 2,
    "attn_layer_period": 4,
    "bos_token_id": 0,
    "encoder_layers": 2,
    "eos_token_id": 1,
    "heads_per_ngram": 2,
    "index_block_size": 8,
    "is_decoder": True,
    "layer_group_size": 3,
    "mamba_d_ssm": 64,
    "moe_latent_size": None,
    "n_layers_per_attn_res_block": 3,
    "ngram_vocab_size_base": 100,
    "num_kv_shared_layers": 3,
    "original_max_position_embeddings": 64,
    "pad_token_id": 1,
    "rel_extent": 16,
}
_LINEAR = ["linear_attention"] * 3 + ["full_attention"]
_SLIDING = (["sliding_attention"] * 3 + ["full_attention"]) * 2  # of which the last three share what 3 and 4 make
OWN: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "gemma3n_text": {"layer_types": _SLIDING},
    "gemma4_text": {"layer_types": _SLIDING, "global_head_dim": 16},
    "gemma4_unified_text": {"layer_types": _SLIDING, "global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "granitemoehybrid": {"layer_types": _LINEAR * 2},
    "kimi_linear": {"layer_types": _LINEAR * 2},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron_h": {"layer_types": ["linear_attention", "moe", "full_attention", "mlp"] * 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 4},
    "zamba2": {"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


_NO_SWITCH = (  # what a model is asked for, and whether it is a causal language model at all
    *("return_dict", "use_cache", "is_decoder", "is_encoder", "is_encoder_decoder", "add_cross_attention", "causal"),
    *("use_bidirectional_attention", "bi_data"),
)


class NotBuiltError(Exception):
    """Why there is no tiny model of a type."""


def causal_types() -> list[str]:
    """Every one that AutoModelForCausalLM opens, in alphabetical order."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(kind: str, switches: Sequence[str] = ()) -> Any:
    """switches: those that stand the other way, by name."""
    of = CONFIG_MAPPING[kind]
    return _config(of, {field.name: not field.default for field in dataclasses.fields(of) if field.name in switches})


def _config(of: Any, others: Mapping[str, Any] | None = None) -> Any:
    names = {field.name for field in dataclasses.fields(of)}
    settings = {name: value for name, value in SETTINGS.items() if name in names}
    if "kv_lora_rank" in names and "num_key_value_heads" in names:  # latent attention has a key for every query
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    text = (getattr(of, "sub_configs", None) or {}).get("text_config")
    if dataclasses.is_dataclass(text):
        settings["text_config"] = _config(text)
    return of(**settings | OWN.get(of.model_type, {}) | dict(others or {}))


def switches_of(kind: str) -> list[str]:
    """The switches of a type with which a tiny model of it can be built the other way, all of them at once."""
    all_names = [
        field.name
        for field in dataclasses.fields(CONFIG_MAPPING[kind])
        if isinstance(field.default, bool) and field.name not in _NO_SWITCH and not field.name.startswith("output_")
    ]
    kept: list[str] = []
    for names in (all_names, *([name] for name in all_names)):
        try:
            tiny_model(kind, switches=[*kept, *names])
        except NotBuiltError:
            continue
        kept += names
        if len(kept) == len(all_names):
            break
    return kept


def tiny_model(kind: str, seed: int = 0, switches: Sequence[str] = ()) -> Any:
    """In float32, its layers different enough that a missing one shows. Raises NotBuiltError, with the reason."""
    try:
        config = config_of(kind, switches)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        size = sum(parameter.numel() for parameter in empty.parameters())
        if size > _MOST:
            raise NotBuiltError(f"{size:,} parameters by settings that this script does not know")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_of(kind, switches)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(2)
            model(input_ids=torch.arange(2, 10).unsqueeze(0), use_cache=False)
    except NotBuiltError:
        raise
    except Exception as error:  # whatever a class raises at settings that are not for it
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise NotBuiltError(f"{type(error).__name__}: {said[-1] if said else ''}") from error
    model.config.architectures = [type(model).__name__]
    return model
