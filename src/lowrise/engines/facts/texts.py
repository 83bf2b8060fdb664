"""`model_type` of a multimodal model's text → the family that several engines read it as."""

from __future__ import annotations

QWEN2_VL = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
QWEN3_VL = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe"}
LLAMA4 = {"llama4_text": "llama4_text"}
MISTRAL3 = {"mistral": "mistral", "ministral3": "ministral3"}
SMOLVLM = {"llama": "llama"}
INTERNVL = {name: name for name in ("llama", "qwen2", "qwen3", "qwen3_moe", "gpt_oss")}
