"""Files, and folders that were cut from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import made_gguf
from made_gguf import GONE, Cut


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    """A base file and the folder cut from it, made once each; tests must not change them."""
    known: dict[tuple[Any, ...], tuple[Path, Path]] = {}

    def make(kind: str, matrices: str, **more: Any) -> tuple[Path, Path]:
        key = (kind, matrices, *more)
        if key not in known:
            place = tmp_path_factory.mktemp("gguf")
            base = made_gguf.save_gguf(place / "base.gguf", kind, matrices, **more)
            known[key] = base, made_gguf.cut(base, place / "folder", GONE[kind])
        return known[key]

    return make


@pytest.fixture
def cut(made: Cut, tmp_path: Path) -> Cut:
    """The same, of a kind and a format of its matrices, as copies of the test's own."""

    def copies(kind: str = "llama", matrices: str = "F32", **more: Any) -> tuple[Path, Path]:
        return made_gguf.copied(*made(kind, matrices, **more), tmp_path)

    return copies
