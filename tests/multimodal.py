"""Tiny random multimodal models: a decoder of six layers with a vision tower, and an image in each one's own form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from tiny import LAYERS, VOCABULARY, tokenizer

IMAGE = VOCABULARY - 1
"""The token that stands for a piece of an image."""
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_EYES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,  # as many as the text has
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_MROPE = {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [2, 1, 1]}
_QWEN_EYES = {
    "depth": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 32,
}


def _picture(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def _plain() -> dict[str, Tensor]:
    return {"pixel_values": _picture(1, 3, 16, 16)}


def _patches() -> dict[str, Tensor]:
    return {"pixel_values": _picture(16, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 4, 4]])}


@dataclass(frozen=True)
class Wrapper:
    """settings: of the config. pieces: tokens that the image takes. image: what is given beside token ids."""

    settings: dict[str, Any]
    pieces: int
    image: Callable[[], dict[str, Tensor]] = _plain
    injected: int = 0


WRAPPERS: dict[str, Wrapper] = {
    "gemma3": Wrapper(
        {
            "text_config": {**_TEXT, "sliding_window": 8, "query_pre_attn_scalar": 8},
            "vision_config": _EYES,
            "mm_tokens_per_image": 4,
            "image_token_id": IMAGE,
        },
        pieces=4,
    ),
    "qwen2_5_vl": Wrapper(
        {
            "text_config": {**_TEXT, "rope_parameters": _MROPE},
            "vision_config": {**_QWEN_EYES, "window_size": 16, "fullatt_block_indexes": [1, 3]},
            "image_token_id": IMAGE,
        },
        pieces=4,
        image=_patches,
    ),
    "qwen3_vl": Wrapper(
        {
            "text_config": {**_TEXT, "rope_parameters": _MROPE},
            "vision_config": {**_QWEN_EYES, "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 3]},
            "image_token_id": IMAGE,
        },
        pieces=4,
        image=_patches,
        injected=2,
    ),
    "llava": Wrapper(
        {"text_config": {"model_type": "llama", **_TEXT}, "vision_config": _EYES, "image_token_id": IMAGE}, pieces=16
    ),
    "smolvlm": Wrapper(
        {
            "text_config": {"model_type": "llama", **_TEXT},
            "vision_config": _EYES,
            "scale_factor": 2,
            "image_token_id": IMAGE,
        },
        pieces=4,
        image=lambda: {"pixel_values": _picture(1, 1, 3, 16, 16)},
    ),
    "internvl": Wrapper(
        {
            "text_config": {"model_type": "qwen2", **_TEXT},
            "vision_config": {**_EYES, "image_size": [16, 16], "patch_size": [4, 4]},
            "image_token_id": IMAGE,
        },
        pieces=4,
    ),
    "mistral3": Wrapper(
        {
            "text_config": {"model_type": "mistral", **_TEXT},
            "vision_config": {**_EYES, "head_dim": 8},
            "spatial_merge_size": 2,
            "image_token_id": IMAGE,
        },
        pieces=4,
        image=lambda: {**_plain(), "image_sizes": torch.tensor([[16, 16]])},
    ),
    "llama4": Wrapper(
        {
            "text_config": {
                **_TEXT,
                "intermediate_size_mlp": 48,
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "interleave_moe_layer_step": 1,
                "attention_chunk_size": 8,
                "no_rope_layers": [1, 1, 1, 0, 1, 1],
            },
            "vision_config": {
                **_EYES,
                "hidden_size": 32,
                "intermediate_size": 128,
                "pixel_shuffle_ratio": 0.5,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
                "vision_output_dim": 16,
            },
            "image_token_index": IMAGE,
        },
        pieces=4,
    ),
}


def model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A random model in float32 whose layers differ enough that skipping one shows. changes: of its config."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **WRAPPERS[kind].settings, **changes)
    made = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():  # a projection that is made of zeros
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def with_image(kind: str) -> dict[str, Tensor]:
    """A row of text with an image in it, as the model takes both."""
    wrapper = WRAPPERS[kind]
    words = torch.randint(2, IMAGE, (1, 10), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([words[:, :3], torch.full((1, wrapper.pieces), IMAGE), words[:, 3:]], dim=1)
    given = {"input_ids": ids, **wrapper.image()}
    return given | ({"mm_token_type_ids": (ids == IMAGE).long()} if "image_grid_thw" in given else {})


def save(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A checkpoint folder as a user would have it, with a processor's file beside it."""
    made = model(kind, **changes)
    (made if dtype == torch.float32 else made.to(dtype)).save_pretrained(folder)  # complex buffers bear no cast
    tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 16}\n', encoding="utf-8")
    return folder
