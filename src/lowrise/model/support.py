"""What cannot be pruned without changing what it computes is refused here, by name, before anything is edited."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowrise.errors import ModelError
from lowrise.model.splice import layer_facts, per_layer_lists

# Attention kinds whose layers keep no state beside their own keys and values.
_PLAIN_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}

# Settings that tie a layer's computation to its position, or the stack to another one, and what they stand for.
_POSITION_BOUND = {
    "num_kv_shared_layers": "layers that share keys and values with others",
    "scale_attn_by_inverse_layer_idx": "attention scaled by the layer's position",
    "cross_attention_layers": "cross-attention at fixed positions",
    "add_cross_attention": "cross-attention",
    "is_heterogeneous": "a different shape for each layer",
    "hidden_size_per_layer_input": "inputs of its own for each layer",
    "encoder_layers": "the decoder of an encoder-decoder, whose config counts the encoder's layers",
}
# Which layers are sparse, told by position: harmless values are none, zero and one. A stack that names the kind of
# each layer's MLP instead (mlp_layer_types) can be spliced.
_SPARSE_PATTERNS = (
    "mlp_only_layers",
    "first_k_dense_replace",
    "moe_layers",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "moe_layer_freq",
    "moe_layer_start_index",
    "moe_layer_interval",
    "expert_layer_period",
)
_HYBRID = ("layers_block_type", "hybrid_layer_ids", "hybrid_override_pattern", "attn_layer_indices", "full_attn_idxs")


def refuse_config(config: Any, where: str) -> None:
    """Raises ModelError naming the setting that makes this stack's layers depend on each other or on their position."""
    kinds = set(getattr(config, "layer_types", None) or ()) - _PLAIN_ATTENTION
    if kinds:
        _refuse(where, f"a hybrid stack (layer_types has {', '.join(sorted(kinds))})")
    for key in _HYBRID:
        if getattr(config, key, None):
            _refuse(where, f"a hybrid stack ({key})")
    for key, meaning in _POSITION_BOUND.items():
        if getattr(config, key, None):
            _refuse(where, f"{meaning} ({key})")
    for key in () if getattr(config, "mlp_layer_types", None) else _SPARSE_PATTERNS:
        if getattr(config, key, None) not in (None, 0, 1, []):
            _refuse(where, f"a mixture-of-experts pattern that depends on the layer's position ({key})")


def refuse_stack(config: Any, layers: nn.ModuleList, where: str) -> None:
    """Raises ModelError when layers differ that the config's per-layer lists do not tell apart: by position, then."""
    lists = [getattr(config, name) for name in per_layer_lists(config)]
    alike: dict[tuple[str, ...], dict[str, Any]] = {}
    for index, layer in enumerate(layers):
        facts = layer_facts(layer)
        first = alike.setdefault(tuple(str(entries[index]) for entries in lists), facts)
        for key in first.keys() | facts.keys():
            if first.get(key) != facts.get(key):
                _refuse(where, f"{key} that depends on the layer's position ({first.get(key)}, {facts.get(key)})")


def _refuse(where: str, trait: str) -> None:
    raise ModelError(where, "decoder layers that stand on their own", trait, "this family cannot be made shallower yet")
