"""Which store a model is opened into, from what was asked for and what there is; refused before anything is read."""

from __future__ import annotations

import mmap
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lowrise.errors import OutputError, RecipeError
from lowrise.sizes import memory_bound, said_bytes
from lowrise.store.layer_store import LayerStore
from lowrise.store.on_disk import OnDisk, bound_over, with_margin
from lowrise.store.process import free_memory, lies_in_memory, resident
from lowrise.store.scratch import ELSEWHERE

_OVERHEAD = 1.3  # a run in memory takes so many times its model, without what a repair needs
_OF_FREE = 0.9  # the share of free memory that is taken with `auto`
# What a pass holds beside layers: the activations of a batch in one of them, a piece of the logits.
_WORKING = 1 << 28


@dataclass(frozen=True)
class Memory:
    """asked: a bound as `memory_bound` takes it, or None, which is in memory whatever it takes.

    folder: of a disk, where layers can lie; None: that of temporary files. say: where they come to lie.
    """

    asked: str | None = None
    folder: Path | None = None
    say: Callable[[str], None] = lambda _text: None


def bound_of(asked: str) -> int:
    """Bytes of resident memory that are asked for, as `memory_bound` takes it; `auto`: what is free beside what this
    process has.
    """
    bound = memory_bound(asked)
    return int(_OF_FREE * free_memory()) + resident() if bound is None else bound


def stays_in_memory(asked: str, device: torch.device, total: float, taken: float) -> bool:
    """Whether layers need no disk: on an accelerator, and, with `auto` alone, where a model of `total` bytes fits
    beside the `taken` ones.
    """
    if memory_bound(asked) is not None:
        return False
    return device.type != "cpu" or taken + _OVERHEAD * total + _WORKING <= bound_of(asked)


def store_for(memory: Memory, sizes: Mapping[str, int], device: torch.device, unpacked: int = 0) -> LayerStore:
    """sizes: bytes of each tensor of the model, by name, as it will lie. unpacked: bytes that are taken, at most, while
    a tensor is read from a file that packs them.

    Raises RecipeError for a bound that is too small, with the least that would do, and for one that is not the CPU's;
    OutputError for a folder without room for the layers, or that lies in memory itself.
    """
    if memory.asked is None:
        return LayerStore()
    total = sum(sizes.values())
    if stays_in_memory(memory.asked, device, total, resident()):
        return LayerStore()
    if device.type != "cpu":
        expected = "a model on the CPU, whose memory it bounds"
        raise RecipeError(
            f"--memory {memory.asked}", expected, f"--device {device}", "leave it out, or say --device cpu"
        )
    bound = bound_of(memory.asked)
    check_bound(memory.asked, bound, least_bound(sizes, unpacked))
    folder = memory.folder if memory.folder is not None else Path(tempfile.gettempdir())
    _check_folder(folder, needed := total + mmap.PAGESIZE * len(sizes))
    memory.say(
        f"layers lie on disk: {said_bytes(needed)} in {folder} while the run lasts, "
        f"at most {said_bytes(bound)} of memory"
    )
    return OnDisk(bound, folder, needed)


def check_bound(asked: str, bound: int, least: int) -> None:
    """Raises RecipeError where the bound that was asked for is less than the least that does."""
    if bound < least:
        said = memory_bound(asked) is not None
        enough = said_bytes(with_margin(least))
        expected, found = f"at least {enough} for this model", "less" if said else f"{said_bytes(bound)} that are free"
        raise RecipeError(f"--memory {asked}", expected, found, f"say --memory {enough}" if said else "free memory")


def least_of(largest: int, taken: int) -> int:
    """As `least_bound`, of a model that is not there: its largest layer or tensor, and what the process takes."""
    return bound_over(taken + 2 * largest + _WORKING)


def least_bound(sizes: Mapping[str, int], unpacked: int = 0) -> int:
    """Bytes of resident memory that a model can be opened and run in: two of its layers, or twice its largest tensor,
    beside what this process has already and what a pass holds.
    """
    layers: Counter[str] = Counter()
    for name, size in sizes.items():
        layers[layer_of(name) or name] += size
    largest = max([*layers.values(), *sizes.values()], default=0)
    return bound_over(resident() + max(2 * largest, unpacked) + _WORKING)


def layer_of(name: str) -> str:
    """The number of a parameter's layer, as its name has it; empty for what lies outside of layers."""
    found = re.search(r"\.(\d+)\.", name)
    return found[1] if found else ""


def _check_folder(folder: Path, needed: int) -> None:
    if lies_in_memory(folder):
        raise OutputError(folder, "a folder on a disk for the layers", "one that lies in memory", ELSEWHERE)
    free = shutil.disk_usage(folder).free
    if free < needed:
        expected = f"{said_bytes(needed)} of room for the layers"
        raise OutputError(folder, expected, f"{said_bytes(free)} free", f"free space, or {ELSEWHERE}")
