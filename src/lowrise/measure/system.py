"""The machine's side of a result: versions and peak memory."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
import transformers


def versions() -> dict[str, str]:
    return {
        "lowrise": version("lowrise"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def peak_memory(when: str = "") -> dict[str, int]:
    """Bytes this process has held at most: resident, and on the accelerator if there is one. when: ends the names."""
    peak = {"peak_resident_bytes": _peak_resident()}
    if torch.cuda.is_available():
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    return {f"{name}{when}": value for name, value in peak.items()}


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage also counts what the process that started this one held
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
