"""Which serving engines would misread a model: for page, card and terminal."""

from __future__ import annotations

from lowrise.report import words
from lowrise.results import Results

_FATES = {"opens": "read right by", "wrong": "read WRONG by", "refuses": "refused by", "unknown": "unknown in"}


def misread_by(results: Results) -> list[str]:
    """The engines that open it without a word and read it wrong."""
    return [verdict.engine for verdict in results.engines if verdict.fate == "wrong"]


def misread_sentence(results: Results) -> str | None:
    """`llama.cpp and mlx read it WRONG`; None where no engine does of which anything is known."""
    names = misread_by(results)
    if not names:
        return None
    return f"{words.listed(names)} {'reads' if len(names) == 1 else 'read'} it WRONG: see `lowrise check`"


def misread_because(results: Results) -> list[str]:
    """One sentence an engine that reads it wrong."""
    return [
        f"{verdict.engine} ({verdict.version}): {'; '.join(verdict.because)}."
        for verdict in results.engines
        if verdict.fate == "wrong"
    ]


def fates(results: Results) -> str:
    """`read right by transformers and vllm; unknown in mlx`"""
    found = []
    for fate, word in _FATES.items():
        names = [verdict.engine for verdict in results.engines if verdict.fate == fate]
        found += [f"{word} {words.listed(names)}"] if names else []
    return "; ".join(found)
