"""Text to packed, seeded, hashed windows of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lowrise.calibration.text import check_known, check_long_enough, dataset_text, read_text, tokenise
from lowrise.calibration.tokens import Windows, pack, sample, shuffled
from lowrise.calibration.written import write_windows
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

__all__ = ["Windows", "calibration_windows", "check_known", "text_windows"]

_WRITTEN = "written by the model"
_CHARACTERS_PER_TOKEN = 8  # enough of a dataset's text to fill the windows in any usual language


def calibration_windows(
    decoder: Decoder,
    tokenizer: Any,
    *,
    text: list[str],
    dataset: str | None,
    samples: int,
    length: int,
    seed: int,
    report: Reporter,
    written: float = 0.0,
) -> Windows:
    """`samples` windows of `length` tokens (capped by the model) from files, a dataset, or the model itself.

    written: of text or a dataset, the share of windows that the model writes all the same; they lie among the others in
    an order that the seed decides. Raises TextError for text that cannot be read or does not fill one window.
    """
    length = min(length, decoder.max_length)
    if not text and dataset is None:
        ids = write_windows(decoder, tokenizer, samples=samples, length=length, seed=seed, report=report)
        return Windows(ids, _WRITTEN, seed)
    own = round(written * samples)
    read = _read_windows(decoder, tokenizer, text, dataset, max(1, samples - own), length, seed, report)
    if not own:
        return read
    ids = torch.cat([read.ids, write_windows(decoder, tokenizer, samples=own, length=length, seed=seed, report=report)])
    order = shuffled(len(ids), seed)
    return Windows(ids[order], f"{read.source}, {own} windows {_WRITTEN}", seed, order >= len(read))


def _read_windows(
    decoder: Decoder,
    tokenizer: Any,
    text: list[str],
    dataset: str | None,
    samples: int,
    length: int,
    seed: int,
    report: Reporter,
) -> Windows:
    if dataset is not None:
        source = dataset
        documents = dataset_text(dataset, samples * length * _CHARACTERS_PER_TOKEN)
        streams = [tokenise(tokenizer, "\n\n".join(documents), dataset)]
    else:
        source = ", ".join(Path(path).name for path in text)
        streams = [tokenise(tokenizer, read_text(path), path) for path in text]
    check_long_enough(streams, length, source)
    for stream in streams:
        check_known(stream, decoder, source)
    windows = Windows(sample(pack(streams, length), samples, seed), source, seed)
    if len(windows) < samples:
        report.say(f"{source} fills {len(windows)} windows of {length} tokens, not {samples}: all are used")
    return windows


def text_windows(tokenizer: Any, path: str, length: int) -> Windows:
    """All full windows of one text file, in order: what perplexity is measured on (DESIGN, Perplexity)."""
    stream = tokenise(tokenizer, read_text(path), path)
    check_long_enough([stream], length, path)
    return Windows(pack([stream], length), Path(path).name, seed=0)
