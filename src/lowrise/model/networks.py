"""Networks that act on the residual stream in a removed span's place, in their published form: no norm, no residual.

`ffn` and `swiglu`: LLM-Streamline (arXiv 2403.19135, section 3.2). `linear`: h → h·W, the maps of LinearPatch (arXiv
2505.24680) and Ghosted layers (arXiv 2605.15491). This file is copied beside a checkpoint that needs it, so it imports
torch and transformers alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN


class SpanNetwork(nn.Module):
    """f: h[start] → h[stop], both (batch, tokens, hidden). intermediate, activation: not of the kind `linear`."""

    def __init__(self, kind: str, hidden: int, intermediate: int = 0, activation: str = "") -> None:
        super().__init__()
        self.kind = kind
        if kind == "linear":
            self.settings: dict[str, Any] = {"kind": kind, "hidden": hidden}
            self.map = nn.Linear(hidden, hidden, bias=False)
            return
        self.settings = {"kind": kind, "hidden": hidden, "intermediate": intermediate, "activation": activation}
        if kind == "ffn":
            self.up = nn.Linear(hidden, intermediate)
            self.down = nn.Linear(intermediate, hidden)
        elif kind == "swiglu":
            self.gate = nn.Linear(hidden, intermediate, bias=False)
            self.up = nn.Linear(hidden, intermediate, bias=False)
            self.down = nn.Linear(intermediate, hidden, bias=False)
        else:
            raise ValueError(f"no lightweight network is called {kind!r}")
        self.act = ACT2FN[activation]

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "linear":
            return self.map(h)  # type: ignore[no-any-return]
        if self.kind == "ffn":
            return self.down(self.act(self.up(h)))  # type: ignore[no-any-return]
        return self.down(self.act(self.gate(h)) * self.up(h))  # type: ignore[no-any-return]


def attach(layers: nn.ModuleList, network: SpanNetwork, position: int) -> None:
    """Hooks that let `network` act on the stream before layer `position`, or after the last layer.

    A hook and not a layer of the list: the network keeps no keys and values, so cache slots, layer indices and
    per-layer settings stay those of the decoder layers alone.
    """

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (network(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": network(kwargs["hidden_states"])}

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (network(output[0]), *output[1:]) if isinstance(output, tuple | list) else network(output)

    if position < len(layers):
        layers[position].register_forward_pre_hook(before, with_kwargs=True)
    else:
        layers[-1].register_forward_hook(after)


def linear_network(matrix: Tensor) -> SpanNetwork:
    """h → h·W for W = `matrix` (hidden, hidden), in its precision and where it lies."""
    network = SpanNetwork("linear", len(matrix))
    network.map.weight = nn.Parameter(matrix.T.contiguous(), requires_grad=False)
    return network


def random_network(kind: str, hidden: int, intermediate: int, activation: str, seed: int) -> SpanNetwork:
    """A network with torch's own initialisation from a seed that leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpanNetwork(kind, hidden, intermediate, activation)
