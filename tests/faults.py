"""A device that runs out of memory, without one: layers refuse more rows than would fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lowrise.model.batching import telling

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


class Faults:
    """How often memory ended, and what was said of it."""

    def __init__(self) -> None:
        self.count = 0
        self.said: list[str] = []


@contextmanager
def short_of_memory(layers: nn.ModuleList, rows: int, *, gradients: bool = False, after: int = 0) -> Iterator[Faults]:
    """The last of `layers` takes no more than `rows` rows at once, while gradients are wanted or while not; the first
    `after` calls are let pass.
    """
    found, calls = Faults(), 0

    def refuse(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal calls
        h = args[0] if args else kwargs["hidden_states"]
        if torch.is_grad_enabled() != gradients or h.shape[0] <= rows:
            return
        calls += 1
        if calls > after:
            found.count += 1
            raise torch.OutOfMemoryError(SAID)

    hook = layers[-1].register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        with telling(found.said.append):
            yield found
    finally:
        hook.remove()
