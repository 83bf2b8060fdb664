"""Tokenizers at work: what their library raises becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lowrise.errors import UNUSABLE, InputError, reason


@contextmanager
def tokenizing(
    where: object,
    raising: type[InputError],
    expected: str = "a tokenizer that works",
    remedy: str = "check the tokenizer's files",
) -> Iterator[None]:
    """Around what opens a tokenizer or gives it text."""
    try:
        yield
    except UNUSABLE as error:
        raise raising(where, expected, reason(error), remedy) from error
    except BaseException as error:
        # the Rust below `tokenizers` raises `Exception` itself, and a panic below that; neither has a class to name
        if type(error) is not Exception and type(error).__module__ != "pyo3_runtime":
            raise
        raise raising(where, expected, reason(error), remedy) from error
