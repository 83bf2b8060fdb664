"""The machine's side of a result: versions and peak memory."""

from __future__ import annotations

import platform
import resource
import sys

import torch
import transformers

from lowrise import __version__


def versions() -> dict[str, str]:
    return {
        "lowrise": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def peak_memory(when: str = "") -> dict[str, int]:
    """Bytes this process has held at most: resident, and on the accelerator if there is one. when: ends the names."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    return {f"{name}{when}": value for name, value in peak.items()}
