"""Families as data: where a decoder layer of each reads and writes its residual stream. One row a family.

A family without a row is tried as the row whose names its layer has; whatever was found is checked against the
layer's own modules before it is used. Dropping and inheriting layers needs no row at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from lowrise.errors import ModelError


@dataclass(frozen=True)
class LayerNames:
    """Paths inside one decoder layer. Inputs are first matrices, of attention and of the MLP; all of one read the same.

    Two of the MLP's, gate first, make it gated. mlp_norm, attention_norm: the norms that what they make passes before
    it is added to the stream, where there are any; raw: no norm stands before inputs, they read the stream itself.
    factor: the layer's attribute by which what attention and MLP make is multiplied before it is added to the stream.
    """

    attention_inputs: tuple[str, ...]
    attention_output: str
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    gated: bool
    mlp_norm: str | None = None
    attention_norm: str | None = None
    raw: bool = False
    factor: str | None = None


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = LayerNames(_QKV, "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", gated=True)
_NORMED = replace(_GATED, mlp_norm="post_feedforward_layernorm", attention_norm="post_attention_layernorm")
_FUSED_MLP = replace(_GATED, mlp_inputs=("mlp.gate_up_proj",))
_FUSED_GATED = replace(_GATED, attention_inputs=("self_attn.qkv_proj",), mlp_inputs=("mlp.gate_up_proj",))

FAMILIES: dict[str, LayerNames] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "granite": replace(_GATED, factor="residual_multiplier"),
    "minicpm3": replace(
        _GATED, attention_inputs=("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"), factor="residual_scale"
    ),
    "gemma2": _NORMED,
    "gemma3_text": _NORMED,
    "olmo2": replace(_NORMED, raw=True),
    "olmo3": replace(_NORMED, raw=True),
    "exaone4": replace(_NORMED, raw=True),
    "glm": _FUSED_MLP,
    "glm4": replace(_FUSED_MLP, mlp_norm="post_mlp_layernorm", attention_norm="post_self_attn_layernorm"),
    "phi3": _FUSED_GATED,
    "nemotron": LayerNames(_QKV, "self_attn.o_proj", ("mlp.up_proj",), "mlp.down_proj", gated=False),
    "starcoder2": LayerNames(_QKV, "self_attn.o_proj", ("mlp.c_fc",), "mlp.c_proj", gated=False),
    "phi": LayerNames(_QKV, "self_attn.dense", ("mlp.fc1",), "mlp.fc2", gated=False),
    "gptj": LayerNames(
        ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.out_proj", ("mlp.fc_in",), "mlp.fc_out", gated=False
    ),
    "falcon": LayerNames(
        ("self_attention.query_key_value",),
        "self_attention.dense",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        gated=False,
    ),
    "opt": LayerNames(_QKV, "self_attn.out_proj", ("fc1",), "fc2", gated=False),
    "gpt2": LayerNames(("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", gated=False),
    "gpt_neox": LayerNames(
        ("attention.query_key_value",), "attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", gated=False
    ),
}


def layer_names(family: str, layer: nn.Module) -> LayerNames:
    """The names of `layer`'s reads and writes.

    Raises ModelError when the family has no row and the layer has none of the known rows' modules.
    """
    rows = dict.fromkeys(FAMILIES.values())
    known = sorted(rows, key=lambda row: row.mlp_norm is None and row.factor is None)  # the more special first
    modules = {name for name, _ in layer.named_modules()}
    fitting = []
    for row in [FAMILIES[family]] if family in FAMILIES else known:
        norms = {row.mlp_norm, row.attention_norm} - {None}
        fits = {row.attention_output, *row.mlp_inputs, row.mlp_output} | norms <= modules
        if fits and (row.factor is None or hasattr(layer, row.factor)):
            fitting.append(row)
    if fitting:  # a row whose attention reads otherwise still knows the rest, which is all that some ask for
        return max(fitting, key=lambda row: modules.issuperset(row.attention_inputs))
    raise ModelError(
        f"family {family!r}",
        "a decoder layer whose attention output and MLP matrices are known",
        "module names of no known family",
        "choose the network `layer` or `none`, which need no names",
    )
