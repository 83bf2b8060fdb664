"""Text to packed, seeded, hashed windows of tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lowrise.calibration.prefix import behind, check_prefix, leading_tokens
from lowrise.calibration.text import check_known, check_long_enough, dataset_text, read_text, tokenise
from lowrise.calibration.tokens import Windows, pack, sample, shuffled
from lowrise.calibration.written import write_windows
from lowrise.model.decoder import Decoder
from lowrise.plan import TextRecord
from lowrise.progress import Reporter
from lowrise.settings import Bos

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
    progress: Reporter,
    written: float = 0.0,
    bos: Bos = "auto",
) -> Windows:
    """`samples` windows of `length` tokens (capped by the model) from files, a dataset, or the model itself.

    written: of text or a dataset, the share of windows that the model writes all the same; they lie among the others in
    an order that the seed decides. bos: `auto` begins each window with what the tokenizer puts in front of a text.
    Raises TextError for text that cannot be read or does not fill one window.
    """
    length = min(length, decoder.max_length)
    prefix = leading_tokens(tokenizer, bos)
    how: dict[str, Any] = {"length": length, "seed": seed, "progress": progress, "prefix": prefix}
    if not text and dataset is None:
        ids = write_windows(decoder, tokenizer, samples=samples, **how)
        return Windows(ids, _WRITTEN, seed, prefix=len(prefix))
    own = round(written * samples)
    read = _read_windows(decoder, tokenizer, text, dataset, max(1, samples - own), **how)
    if not own:
        return read
    ids = torch.cat([read.ids, write_windows(decoder, tokenizer, samples=own, **how)])
    order = shuffled(len(ids), seed)
    source = f"{read.source}, {own} windows {_WRITTEN}"
    return replace(read, ids=ids[order], source=source, written=order >= len(read))


def _read_windows(
    decoder: Decoder,
    tokenizer: Any,
    text: list[str],
    dataset: str | None,
    samples: int,
    length: int,
    seed: int,
    progress: Reporter,
    prefix: tuple[int, ...],
) -> Windows:
    texts: tuple[TextRecord, ...] = ()
    if dataset is not None:
        source = dataset
        documents = dataset_text(dataset, samples * length * _CHARACTERS_PER_TOKEN)
        streams = [tokenise(tokenizer, "\n\n".join(documents), dataset)]
    else:
        source = ", ".join(Path(path).name for path in text)
        read = [read_text(path) for path in text]
        texts = tuple(file.record for file in read)
        streams = [tokenise(tokenizer, file.text, path) for file, path in zip(read, text, strict=True)]
    check_long_enough(streams, length, len(prefix), source)
    for stream in streams:
        check_known(stream, decoder, source)
    check_prefix(prefix, decoder)
    ids = behind(prefix, sample(pack(streams, length - len(prefix)), samples, seed))
    windows = Windows(ids, source, seed, prefix=len(prefix), texts=texts)
    if len(windows) < samples:
        progress.say(f"{source} fills {len(windows)} windows of {length} tokens, not {samples}: all are used")
    return windows


def text_windows(tokenizer: Any, path: str, length: int, bos: Bos = "auto") -> Windows:
    """All full windows of one text file, in order: what perplexity is measured on (DESIGN, Perplexity)."""
    file, prefix = read_text(path), leading_tokens(tokenizer, bos)
    stream = tokenise(tokenizer, file.text, path)
    check_long_enough([stream], length, len(prefix), path)
    ids = behind(prefix, pack([stream], length - len(prefix)))
    return Windows(ids, Path(path).name, seed=0, prefix=len(prefix), texts=(file.record,))
