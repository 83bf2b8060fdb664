"""Training pairs (h[start], h[stop]) of the dense model, in memory up to a bound, else on disk."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.errors import OutputError, RecipeError
from lowrise.files.temporary import making_temporary
from lowrise.model.decoder import Decoder
from lowrise.observe.passes import states_of_batches
from lowrise.progress import Reporter

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Pairs:
    """inputs and targets: (windows, tokens, hidden) each, on the CPU, in the model's dtype."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


def ram_limit(max_ram: str | None) -> int:
    """Bytes that pairs may take in memory: `max_ram` ("800M", "4G"), or half of what is free now."""
    if max_ram is None:
        return int(psutil.virtual_memory().available // 2)
    text = max_ram.strip().upper().removesuffix("B").removesuffix("I")
    unit = _UNITS.get(text[-1:], 1)
    try:
        size = float(text[:-1] if text[-1:] in _UNITS else text) * unit
    except ValueError:
        size = -1.0
    if not 0 <= size < 2**63:
        raise RecipeError("--max-ram", "a size such as 800M or 4G", repr(max_ram), "give such a size")
    return int(size)


def collect_pairs(decoder: Decoder, windows: Windows, start: int, stop: int, limit: int, progress: Reporter) -> Pairs:
    """The pairs of every window from one forward pass that ends at layer `stop`.

    limit: bytes; above it the pairs lie in a file that has no name any more, so that no crash can leave it behind.
    Raises OutputError when the disk has no room for it.
    """
    shape = (2, len(windows), windows.length, decoder.hidden_size)
    count = 2 * windows.tokens * decoder.hidden_size
    size = count * decoder.dtype.itemsize
    if size <= limit:
        store = torch.empty(shape, dtype=decoder.dtype)
    else:
        progress.say(f"training pairs take {size / 2**30:.1f} GiB, more than --max-ram: kept on disk for the run")
        store = _on_disk(count, size, decoder.dtype).view(shape)
    with torch.no_grad(), progress.bar("pairs", len(windows)) as bar:
        row = 0
        batches = windows.batches(decoder.batch_tokens)
        for ids, states in states_of_batches(decoder, batches, stop, (start, stop)):
            for layer, h in states:
                if layer in (start, stop):
                    store[int(layer == stop), row : row + len(ids)] = h.cpu()
            row += len(ids)
            bar.advance(ids.numel(), steps=len(ids))
    return Pairs(store[0], store[1])


def _on_disk(count: int, size: int, dtype: torch.dtype) -> Tensor:
    """A tensor mapped onto an unlinked file. Its blocks are reserved now: a full disk must not be a crash later."""
    with making_temporary():
        handle, name = tempfile.mkstemp(prefix="lowrise-pairs-")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        return torch.from_file(name, shared=True, size=count, dtype=dtype)
    except OSError as error:
        raise OutputError(
            tempfile.gettempdir(),
            f"{size / 2**30:.1f} GiB of room for training pairs",
            error.strerror or str(error),
            "set TMPDIR to a larger disk, or raise --max-ram",
        ) from error
    finally:
        os.close(handle)
        Path(name).unlink()
