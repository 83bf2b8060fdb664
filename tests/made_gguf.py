"""Tiny GGUF files of several architectures, as llama.cpp's converter would write them, and folders cut from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

import lowrise
import tiny

Numbers = np.ndarray[Any, Any]
Tensors = dict[str, Numbers]

# The layers that go: of Gemma-3 such that those that stay see as far as their new numbers say.
GONE = {"llama": [1, 3], "qwen2": [0, 4], "gemma3": [2, 5], "gpt2": [1, 2], "qwen3moe": [1, 4]}
Cut = Callable[..., tuple[Path, Path]]
"""Of a kind and a format of its matrices: a base file, and the folder cut from it."""

_WIDE = {"hidden_size": 64, "intermediate_size": 96}  # rows that blocks of 32 numbers fit


def _plain(state: Tensors, _config: Any) -> Tensors:
    return state


def _llama(state: Tensors, config: Any) -> Tensors:
    """Queries and keys: of each head, halves of a rotary pair come to lie side by side."""

    def permuted(weights: Numbers, heads: int) -> Numbers:
        return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)

    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return {
        name: permuted(value, heads[name.split(".")[-2]]) if name.split(".")[-2] in heads else value
        for name, value in state.items()
    }


def _gemma3(state: Tensors, _config: Any) -> Tensors:
    return {name: value + np.float32(1) if name.endswith("norm.weight") else value for name, value in state.items()}


def _gpt2(state: Tensors, _config: Any) -> Tensors:
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: value.T if name.endswith(turned) else value for name, value in state.items()}


def _experts(state: Tensors, _config: Any) -> Tensors:
    """Gate and up in one parameter, (experts, 2·width, hidden), are two tensors."""
    made = {}
    for name, value in state.items():
        if name.endswith("gate_up_proj"):
            made[name.replace("gate_up_proj", "gate_proj")], made[name.replace("gate_up_proj", "up_proj")] = np.split(
                value, 2, axis=1
            )
        else:
            made[name] = value
    return made


def _moe() -> Any:
    return Qwen3MoeConfig(
        **{**tiny.FAMILIES["llama"][1], **_WIDE},
        head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=768, decoder_sparse_step=1,
    )  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How a family is written. numbers: its metadata behind the architecture's name, from the config."""

    architecture: str
    config: Callable[[], Any]
    turned: Callable[[Tensors, Any], Tensors]
    numbers: Callable[[Any], dict[str, int]] = lambda _config: {}


KINDS = {
    "llama": Kind("llama", lambda: tiny.config("llama", **_WIDE), _llama, lambda _config: {"rope.dimension_count": 16}),
    "qwen2": Kind("qwen2", lambda: tiny.config("qwen2", **_WIDE), _plain),
    "gemma3": Kind(
        "gemma3",
        lambda: tiny.config("gemma3_text", **_WIDE, head_dim=256, query_pre_attn_scalar=256),
        _gemma3,
        lambda _config: {"attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 8},
    ),
    "gpt2": Kind("gpt2", lambda: tiny.config("gpt2", hidden_size=64, max_position_embeddings=1024), _gpt2),
    "qwen3moe": Kind(
        "qwen3moe",
        _moe,
        _experts,
        lambda _config: {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 768,
                   "attention.key_length": 16, "attention.value_length": 16},
    ),
}  # fmt: skip


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(KINDS[kind].config())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def save_gguf(
    file: Path, kind: str = "llama", matrices: str = "F32", alignment: int = 32, **fields: tuple[Any, str]
) -> Path:
    """matrices: GGML's name of their format. fields: more metadata, (value, name of its type), `__` for a dot."""
    row, made = KINDS[kind], model_of(kind)
    config, writer = made.config, gguf.GGUFWriter(file, KINDS[kind].architecture)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(tiny.LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_feed_forward_length(4 * config.hidden_size)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(10_000.0)
    for name, number in row.numbers(config).items():
        writer.add_uint32(f"{row.architecture}.{name}", number)
    for name, (value, type_name) in fields.items():
        of = gguf.GGUFValueType[type_name]
        writer.add_key_value(name.replace("__", "."), value, of)
    words = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(words["vocab"], key=words["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (tiny.VOCABULARY - 2))
    writer.add_token_merges([" ".join(merge) for merge in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if kind == "gemma3":
        writer.add_token_scores([0.0] * tiny.VOCABULARY)
    for name, value in _tensors(made, kind).items():
        one = gguf.GGMLQuantizationType[matrices if value.ndim > 1 and "ffn_gate_inp" not in name else "F32"]
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(value), one), raw_dtype=one)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _tensors(made: Any, kind: str) -> Tensors:
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == KINDS[kind].architecture)
    names = gguf.get_tensor_name_map(arch, tiny.LAYERS)
    tied = {"lm_head.weight"} if made.config.tie_word_embeddings else set()
    state = {name: value.numpy() for name, value in made.state_dict().items() if name not in tied}
    found = {}
    for name, value in KINDS[kind].turned(state, made.config).items():
        stem, dot, suffix = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, ".", "weight")
        found[names.get_name(stem) + dot + suffix] = value
    return found


def cut(file: Path, folder: Path, gone: list[int]) -> Path:
    """The folder that lowrise writes without these layers."""
    opened = lowrise.open(file, device="cpu")
    return lowrise.apply(opened, lowrise.plan(opened, lowrise.tokens(tiny.ids()), layers=gone)).save(folder)


def copied(base: Path, folder: Path, target: Path) -> tuple[Path, Path]:
    """Both, in a folder of a test's own, as if the one had been cut from the other there."""
    own = Path(shutil.copy(base, target / "base.gguf"))
    made = Path(shutil.copytree(folder, target / "folder"))
    plan = made / "lowrise" / "plan.json"
    found = json.loads(plan.read_text())
    found["model"]["source"] = str(own)
    plan.write_text(json.dumps(found))
    return own, made


def change(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    """Move these parameters a little, as a repair does; returns them."""
    file = folder / "model.safetensors"
    state = load_file(file)
    generator = torch.Generator().manual_seed(1)
    for name in names:
        state[name] = state[name] + 0.01 * torch.randn(state[name].shape, generator=generator).to(state[name].dtype)
    save_file(state, file, metadata={"format": "pt"})
    return {name: state[name] for name in names}


def read(file: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(file)


def contents(reader: gguf.GGUFReader) -> dict[str, tuple[Any, ...]]:
    """Fields but the file's own counts, in order: types and values."""
    return {key: (field.types, field.contents()) for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def raw(reader: gguf.GGUFReader) -> dict[str, tuple[Any, ...]]:
    """Tensors in order: format, shape and bytes."""
    return {one.name: (one.tensor_type, one.shape.tolist(), one.data.tobytes()) for one in reader.tensors}


def expected_tensors(base: gguf.GGUFReader, gone: list[int]) -> dict[str, tuple[Any, ...]]:
    """Those of the layers that stay, under their new numbers."""
    kept = {old: new for new, old in enumerate(layer for layer in range(tiny.LAYERS) if layer not in gone)}
    found = {}
    for name, content in raw(base).items():
        first, number, *rest = name.split(".")
        if first != "blk":
            found[name] = content
        elif int(number) in kept:
            found[".".join([first, str(kept[int(number)]), *rest])] = content
    return found
