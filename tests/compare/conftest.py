"""Comparisons whose steps, processes of their own for a user, run inside this one, where torch is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from comparisons import SMALL, Arguments, steps_inside

_TASK = """
task: tiny_words
custom_dataset: !function tiny_words.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_DATA = """
import datasets

def load(**_):
    rows = [{"context": "ab" * i, "choices": ["cd", "ef gh"], "answer": i % 2} for i in range(1, 9)]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
"""


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_words.yaml").write_text(_TASK)
    (folder / "tiny_words.py").write_text(_DATA)
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were run, by their titles; they run inside this process, and nothing is drawn at the end."""
    monkeypatch.setattr("lowrise.compare.draw_comparison", lambda *_: [])
    monkeypatch.setattr("lowrise.compare.comparison_page", lambda *_: "")
    return steps_inside(monkeypatch)


@pytest.fixture
def asked(tiny_folder: Path, text_file: Path, tmp_path: Path) -> Arguments:
    """A sound command; options after it win."""
    texts = ["--text", text_file, "--eval-text", text_file]
    chosen = ["--presets", "streamline-none,laco-last", "--remove", "1,2"]
    return ["compare", tiny_folder, *chosen, *texts, *SMALL, "--out", tmp_path / "out"]
