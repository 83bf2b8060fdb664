"""Perplexity of one model on one text: a part of results.json."""

from __future__ import annotations

from lowrise.results.record import Record


class Perplexity(Record):
    """Of one text. value: exp(loss), infinite where that overflows; loss: mean over tokens, natural log."""

    value: float
    loss: float
    tokens: int
    windows: int
    length: int
    bos: bool
