"""A model to heal, and little text held out of what it is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrise.heal import sources
from lowrise.model.source import OpenModel, open_model


@pytest.fixture(autouse=True)
def less_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model writes the guard of nearly every test."""
    monkeypatch.setattr(sources, "HELD_OUT", 512)


@pytest.fixture(scope="module")
def opened(tiny_folder: Path) -> OpenModel:
    return open_model(str(tiny_folder), device="cpu")
