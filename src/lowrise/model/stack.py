"""Where in a model its decoder layers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lowrise.errors import UNUSABLE, ModelError, reason
from lowrise.model.depth import depth_name


def count_of_layers(config: Any, where: str) -> int:
    """As the config of a text decoder says it. Raises ModelError for one that does not."""
    count = getattr(config, depth_name(config), None)
    if not isinstance(count, int):
        expected = "a config of a text decoder, which says num_hidden_layers"
        raise ModelError(where, expected, type(config).__name__, "choose another model")
    return count


def find_stack(model: Any, count: int, where: str) -> str:
    """The path of the ModuleList that holds the `count` decoder layers.

    The tower of another input may have as many layers: token ids alone then tell which stack is the text's.
    Raises ModelError unless there is one.
    """
    lists = [
        name
        for name, one in model.named_modules()
        if isinstance(one, nn.ModuleList) and len(one) == count and all(map(_has_weights, one))
    ]
    stacks = _outermost(lists)
    if len(stacks) > 1:
        stacks = _run_by_ids(model, stacks, where)
    stacks = [name for name in stacks if _has_attention(model.get_submodule(name))] or stacks
    if len(stacks) != 1:
        found = ", ".join(stacks) or "none"
        raise ModelError(where, f"one ModuleList of {count} decoder layers", found, "this model cannot be pruned")
    return stacks[0]


def try_ids(model: nn.Module, device: torch.device, where: str) -> None:
    """Run `model` on two tokens. Raises ModelError for one that does not take token ids alone."""
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except UNUSABLE as error:
        expected = "a decoder that reads token ids alone"
        raise ModelError(where, expected, f"one that does not ({reason(error)})", "choose another model") from error


def _outermost(names: Sequence[str]) -> list[str]:
    """Those that lie in no other: experts of a layer may be as many as the layers."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


@torch.no_grad()
def _run_by_ids(model: Any, stacks: Sequence[str], where: str) -> list[str]:
    """Those whose first layer is run when the model is given token ids and nothing else."""
    run: list[str] = []

    def note(name: str) -> Any:
        return model.get_submodule(name)[0].register_forward_pre_hook(lambda *_: run.append(name))

    hooks = [note(name) for name in stacks]
    try:
        try_ids(model, next(model.parameters()).device, where)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in stacks if name in run]


def _has_weights(layer: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in layer.parameters())


def _has_attention(stack: nn.Module) -> bool:
    return all(
        any("attn" in name or "attention" in name for name, _ in layer.named_children()) for layer in stack.children()
    )
