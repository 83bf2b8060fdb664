"""Bytes of tensors held at once: the same count on every machine and in every run, which resident memory is not."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldBytes(TorchDispatchMode):
    """While active, `peak` is the most bytes of tensors alive at once: the model's weights and all made inside.

    Storages are counted once, however many tensors look into them, and until the last of these dies. What a kernel
    takes and gives back inside itself, the allocator's rounding and the program are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self._now = self.peak = 0
        for tensor in [*model.parameters(), *model.buffers()]:
            self._hold(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes()
        self._known.add(address)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._let_go, address, size).atexit = False

    def _let_go(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size
