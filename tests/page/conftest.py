"""Output folders as `lowrise run` leaves them, which pages and cards are made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pages import make_folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process makes these folders, for all tests of pages."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("pages"))


@pytest.fixture(scope="session")
def finished(tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One output folder a kind of edit; tests copy before they change."""
    kinds = ("layer", "none", "paper", "merge", "search", "span search", "weights")
    return make_folders(tmp_path_factory.mktemp("finished"), tiny_folder, text_file, kinds)


@pytest.fixture
def folder(finished: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the one with a trained layer, weights left behind: a page needs none."""
    return Path(shutil.copytree(finished["layer"], tmp_path / "out", ignore=shutil.ignore_patterns("*.safetensors")))
