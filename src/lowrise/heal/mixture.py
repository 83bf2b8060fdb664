"""How many windows of which source, and in what order."""

from __future__ import annotations

import torch
from torch import Tensor


def equal_parts(windows: int, most: list[int]) -> list[int]:
    """`windows` over sources that can give `most` each, as equal as these allow; less in all where they give less."""
    parts, left = [0] * len(most), windows
    for done, index in enumerate(sorted(range(len(most)), key=most.__getitem__)):  # the smallest first
        parts[index] = min(most[index], left // (len(most) - done))
        left -= parts[index]
    return parts


def passes(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """(wanted,) numbers below `count`: all of them in one order, then all in another, and so on."""
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))]
    return torch.cat(rounds)[:wanted] if rounds else torch.empty(0, dtype=torch.long)


def interleaved(parts: list[int], generator: torch.Generator) -> Tensor:
    """(sum of parts,): source i as often as its part says, in a random order."""
    labels = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(parts))
    return labels[torch.randperm(len(labels), generator=generator)]
