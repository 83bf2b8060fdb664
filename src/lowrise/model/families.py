"""Families as data: where a decoder layer of each writes its residual stream. One row a family.

A family without a row is tried as the row whose names its layer has; whatever was found is checked against the
layer's own modules before it is used. Dropping and inheriting layers needs no row at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lowrise.errors import ModelError


@dataclass(frozen=True)
class LayerNames:
    """Paths inside one decoder layer. `inputs` are the MLP's first matrices; two of them, gate first, make it gated."""

    attention_output: str
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    gated: bool


_GATED = LayerNames("self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", gated=True)
_FUSED_GATED = LayerNames("self_attn.o_proj", ("mlp.gate_up_proj",), "mlp.down_proj", gated=True)

FAMILIES: dict[str, LayerNames] = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "olmo2": _GATED,
    "phi3": _FUSED_GATED,
    "opt": LayerNames("self_attn.out_proj", ("fc1",), "fc2", gated=False),
    "gpt2": LayerNames("attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", gated=False),
    "gpt_neox": LayerNames("attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", gated=False),
}


def layer_names(family: str, layer: nn.Module) -> LayerNames:
    """The names of `layer`'s writes.

    Raises ModelError when the family has no row and the layer has none of the known rows' modules.
    """
    rows = [FAMILIES[family]] if family in FAMILIES else dict.fromkeys(FAMILIES.values())
    for row in rows:
        modules = {name for name, _ in layer.named_modules()}
        if {row.attention_output, row.mlp_output, *row.mlp_inputs} <= modules:
            return row
    raise ModelError(
        f"family {family!r}",
        "a decoder layer whose attention output and MLP matrices are known",
        "module names of no known family",
        "choose the network `layer` or `none`, which need no names",
    )
