"""The refused command: exit 2, one line, and the disk as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

import tiny
from refusals import PLAIN, Main, Refused, assert_one_line, contents, without_work


@pytest.fixture(scope="session")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "short.txt"
    file.write_text("far too short", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny_plan(tiny_folder: Path) -> dict[str, Any]:
    """A sound plan for the tiny checkpoint, as JSON would give it."""
    from lowrise.model.weights import fingerprint

    return {
        "format": 1,
        "model": {
            "source": str(tiny_folder),
            "family": "llama",
            "layers": tiny.LAYERS,
            "sha256": fingerprint([tiny_folder / "model.safetensors"]),
        },
        "preset": "streamline-none",
        "calibration": {"source": "w", "tokens": 256, "sha256": "0" * 64, "seed": 0, "samples": 8, "length": 32},
        "edits": [{"kind": "drop", "start": 1, "stop": 3}],
        "layers_after": 4,
        "parameters_before": 1,
        "parameters_after": 1,
    }


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for TMPDIR."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder that outputs go into."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def refused(main: Main, place: Path, scratch: Path) -> Refused:
    """Run the command; it must refuse in one line holding `says`, and leave disk as it was. Returns the line.

    keeps: but for a work folder, which the same command goes on with.
    """

    def run(*arguments: object, says: tuple[object, ...] = (), keeps: bool = False) -> str:
        before = contents(place)
        line = assert_one_line(*main(*arguments), says)
        left, kept = without_work(contents(place))
        assert left == before
        assert kept == keeps
        assert not list(scratch.glob("lowrise-*"))
        return line

    return run


@pytest.fixture
def run_refused(refused: Refused, place: Path, tiny_folder: Path, text_file: Path) -> Refused:
    """`lowrise run` on the tiny checkpoint with sound options, and `changes` after them, which win."""

    def run(
        *changes: object, model: Path | str = tiny_folder, says: tuple[object, ...] = (), keeps: bool = False
    ) -> str:
        sound = ("run", model, *PLAIN, "--text", text_file, "--out", place / "out")
        return refused(*sound, *changes, says=says, keeps=keeps)

    return run
