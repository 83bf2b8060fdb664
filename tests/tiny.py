"""Tiny random models of every family that the contract tests run, and a tokenizer trained on a line of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lowrise.calibration import Windows

LAYERS = 6
VOCABULARY = 300
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GATED = {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2}
_SLIDING = {"sliding_window": 8, "head_dim": 8}

# family -> (config class, settings); sliding windows are shorter than the rows that tests run
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GATED),
    "mistral": ("MistralConfig", {**_GATED, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", {**_GATED, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}),
    "qwen3": ("Qwen3Config", {**_GATED, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**_GATED, **_SLIDING, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", {**_GATED, **_SLIDING, "query_pre_attn_scalar": 8}),
    "opt": ("OPTConfig", {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt2": ("GPT2Config", COMMON),
    "gpt_neox": ("GPTNeoXConfig", {**COMMON, "intermediate_size": 48}),
    "phi3": ("Phi3Config", {**_GATED, "sliding_window": 64}),
    "olmo2": ("Olmo2Config", _GATED),
}


def config(family: str, **changes: Any) -> Any:
    name, settings = FAMILIES[family]
    return getattr(transformers, name)(**{**settings, **changes})


def model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model in float32 whose layers differ enough that skipping one shows."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(family, **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def ids(rows: int = 2, tokens: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def windows(rows: int = 16, seed: int = 0) -> Windows:
    """Of 32 tokens."""
    return Windows(ids(rows, 32, seed), "test", 0)


def without(*gone: int) -> list[int]:
    """The layers that stay."""
    return [layer for layer in range(LAYERS) if layer not in gone]


def text(words: int = 4000, seed: int = 0) -> str:
    """Words of a small alphabet, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(97, 123, (words, 4), generator=generator).tolist()
    return " ".join("".join(map(chr, word)) for word in letters)


def tokenizer(template: str = "") -> PreTrainedTokenizerFast:
    """template: what is put around a text $A, as "<s> $A </s>"; none without it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text(500)], trainer)
    if template:
        special = [("<s>", 0), ("</s>", 1)]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def save(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, template: str = "", **changes: Any
) -> Path:
    """A checkpoint folder as a user would have it. template: as of `tokenizer`."""
    model(family, **changes).to(dtype).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The tiny Llama with its tokenizer as one GGUF file (queries and keys not permuted: another model)."""
    import gguf

    made, writer = model("llama"), gguf.GGUFWriter(file, "llama")
    writer.add_context_length(made.config.max_position_embeddings)
    writer.add_embedding_length(made.config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(made.config.intermediate_size)
    writer.add_head_count(made.config.num_attention_heads)
    writer.add_head_count_kv(made.config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(made.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    words = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(words["vocab"], key=words["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))  # control, then normal
    writer.add_token_merges([" ".join(merge) for merge in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, value in made.state_dict().items():
        name = name.removesuffix(".weight")
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        stem = f"blk.{layer}.{_GGUF_NAMES[part]}" if layer.isdigit() else _GGUF_NAMES[name]
        writer.add_tensor(f"{stem}.weight", value.to(dtype if value.dim() > 1 else torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
