"""What `lowrise report` refuses: exit 2, one line, and the old page and card as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pages import change_results
from refusals import Main, assert_one_line, contents


class TestReportRefuses:
    """Exit 2, one line, and the old page and card as they were."""

    def refused(self, main: Main, folder: Path, *says: object) -> None:
        before = contents(folder) if folder.is_dir() else None
        assert_one_line(*main("report", folder), says)
        assert before is None or contents(folder) == before

    def test_what_is_no_output_folder(self, main: Main, tmp_path: Path, tiny_folder: Path) -> None:
        self.refused(main, tmp_path / "nowhere", "nowhere", "output folder")
        self.refused(main, tiny_folder, "no folder `lowrise` in it")
        (tmp_path / "file").write_text("x")
        self.refused(main, tmp_path / "file", "output folder")

    @pytest.mark.parametrize("name", ["results.json", "plan.json", "recipe.yaml", "training.json"])
    def test_a_folder_that_lacks_a_file(self, main: Main, folder: Path, name: str) -> None:
        (folder / "lowrise" / name).unlink()
        self.refused(main, folder, name, "No such file")

    @pytest.mark.parametrize("name", ["results.json", "plan.json", "observation.json", "training.json"])
    @pytest.mark.parametrize("content", [b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"layers": "many"}'])
    def test_a_damaged_file(self, main: Main, folder: Path, name: str, content: bytes) -> None:
        (folder / "lowrise" / name).write_bytes(content)
        self.refused(main, folder, name)

    @pytest.mark.parametrize(
        "changes",
        [
            {"perplexity": 3},
            {"perplexity": {"a": {"value": "low"}}},
            {"samples": [{"prompt": 1}]},
            {"layers": 0},
            {"retained": {"tasks": {"a": 0.5}}},
            {"speed": {"compressed": {"prefill": {"1": 3}}}},
            {"tasks": {"a": {"acc": "good"}}},
        ],
    )
    def test_results_that_are_none(self, main: Main, folder: Path, changes: dict[str, Any]) -> None:
        change_results(folder, **changes)
        self.refused(main, folder, "results.json", next(iter(changes)))

    def test_files_of_two_runs(self, main: Main, folder: Path, finished: dict[str, Path]) -> None:
        change_results(folder, layers=5)
        self.refused(main, folder, "as in plan.json")
        shutil.copy(finished["layer"] / "lowrise/results.json", folder / "lowrise")
        seen = json.loads((folder / "lowrise/observation.json").read_text())
        seen["pairs"].pop()
        (folder / "lowrise/observation.json").write_text(json.dumps(seen))
        self.refused(main, folder, "observation.json", "6 layers")
