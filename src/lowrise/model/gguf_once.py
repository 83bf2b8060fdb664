"""A GGUF file is read once while it is opened.

transformers reads its metadata three times (config, tokenizer, weights), numpy's memmap makes every word of a
vocabulary slow to read, and the table of tensor names is made anew for every module. On the demo model that is half of
the time that opening takes. For as long as a file is opened, the `gguf` package hands out what it has read already.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np


class _PlainReader(gguf.GGUFReader):  # type: ignore[misc]
    """Its data is a plain array over the same mapped file."""

    @property
    def data(self) -> Any:
        return self._plain

    @data.setter
    def data(self, mapped: Any) -> None:
        self._plain = np.asarray(mapped)


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(_PlainReader), functools.cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before
