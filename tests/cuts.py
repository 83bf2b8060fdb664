"""What tests of written checkpoints share: a cut without a search, written and proven as a run does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lowrise.model.checkpoint import save_and_prove
from lowrise.model.decoder import Decoder
from lowrise.model.source import open_model


def cut(folder: Path, out: Path, start: int = 1, stop: int = 3, **options: Any) -> Decoder:
    """The reloaded model: `folder` without layers [start, stop), in `out`. options: as of open_model."""
    opened = open_model(str(folder), device="cpu", **options)
    opened.decoder.drop(start, stop)
    compute = opened.decoder.dtype
    out.mkdir()
    return save_and_prove(opened, out, out=out, compute=compute)


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found
