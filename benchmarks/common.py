"""What benchmarks share: the demo model, a text, and peak memory over a stretch of code."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import psutil
import torch

from lowrise.calibration import Windows, text_windows
from lowrise.model.source import OpenModel, open_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from fetch_demo_model import fetch


def parser(purpose: str | None) -> argparse.ArgumentParser:
    """purpose: a benchmark's docstring."""
    made = argparse.ArgumentParser(description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", help="default: the demo model, fetched if it is not there")
    made.add_argument("--text", help="default: the language reference that every Python carries")
    return made


def open_demo(model: str | None) -> OpenModel:
    return open_model(model or str(fetch()), device="cpu")


def demo_text(path: str | None) -> str:
    return Path(path).read_text(encoding="utf-8") if path else "\n\n".join(topics[name] for name in sorted(topics))


def spread(opened: OpenModel, path: str, length: int, count: int) -> Windows:
    """`count` windows, spread over the text."""
    whole = text_windows(opened.tokenizer, path, length)
    places = torch.linspace(0, len(whole) - 1, min(count, len(whole))).long()
    return Windows(whole.ids[places], whole.source, 0)


class Peak:
    """Bytes above the resident size at the start; set when the block ends."""

    above = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Highest resident size inside the block (Linux: the kernel's own high-water mark, reset at the start)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, peak = psutil.Process().memory_info().rss, Peak()
    yield peak
    marks = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak.above = int(marks["VmHWM"].split()[0]) * 1024 - before


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
