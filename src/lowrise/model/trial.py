"""A trial cut: do the layers that are left compute what they compute when the others are skipped?

The model's module tree is copied, not its tensors, and cut as `Decoder.drop` cuts. Then, on a few tokens, with windows
shortened so that they count, compared with the model itself: how its layers are called, its logits, and how far
logits through the cache are from those of whole rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lowrise.model.cached import disagreement
from lowrise.model.passing import LayerArguments, another_argument

TOKENS = 12
_AT_ONCE = 8  # read together before the others, which are read through the cache
_WINDOW = 4
_NOT_WINDOWS = ("max_window_layers", "use_sliding_window")
_OF_DENSE = 3.0  # cached and uncached logits of the cut model may differ by so many times what those of the whole do
_SAME = 1e-3  # or by so much of the largest logit


def twin(model: nn.Module) -> Any:
    """Modules and config of their own, with the model's own parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


@contextmanager
def short_windows(config: Any) -> Iterator[None]:
    """Windows and chunks of attention of a few tokens, for a while."""
    own = vars(config)
    names = [
        name
        for name, value in own.items()
        if ("window" in name or name in ("attention_chunk_size", "local_attention"))
        and name not in _NOT_WINDOWS
        and isinstance(value, int)
        and not isinstance(value, bool)
        and value > _WINDOW
    ]
    before = {name: own[name] for name in names}
    own.update(dict.fromkeys(names, _WINDOW))
    try:
        yield
    finally:
        own.update(before)


def trial_ids(vocabulary: int, device: torch.device) -> Tensor:
    """(1, TOKENS) ids, all different where there are so many."""
    step = max(1, (vocabulary - 8) // TOKENS)
    return (torch.arange(TOKENS) * step + min(7, vocabulary - 1)).remainder(vocabulary).unsqueeze(0).to(device)


def difference_of_calls(
    dense: Sequence[LayerArguments], left: Sequence[LayerArguments], kept: Sequence[int]
) -> str | None:
    """What layers that are left are called with that they were not called with before; None if it is the same."""
    if len(left) != len(kept) or len(dense) <= max(kept):
        return f"{len(left)} calls of {len(kept)} layers"
    for new, index in enumerate(kept):
        found = another_argument(dense[index], left[new])
        if found is not None and (not isinstance(found[1], int) or found[1:] != (index, new)):
            return f"another {found[0]} given to layer {index}"
    return None


def agree(one: Tensor, other: Tensor, again: Tensor) -> bool:
    """Whether logits are equal, or as near as the same pass run twice. again: the same as `one`, of a second run."""
    return one.shape == other.shape and float((one - other).abs().max()) <= 2 * float((one - again).abs().max())


def worse_cached(dense: Any, left: Any, ids: Tensor) -> str | None:
    """How far cached logits of the cut model are from uncached ones, if that is further than in the whole one."""
    found = disagreement(left, ids, _AT_ONCE)
    if found <= _SAME:
        return None
    before = disagreement(dense, ids, _AT_ONCE)
    if found <= _OF_DENSE * before:
        return None
    return (
        f"cached and uncached logits that differ by {found:.2%} of the largest one, "
        f"where those of the whole model differ by {before:.2%}"
    )
