"""Comparisons whose steps, processes of their own for a user, run inside this one, where torch is loaded."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from comparisons import SMALL, Arguments
from lowrise import cli
from lowrise.compare import steps
from lowrise.compare.child import StepResult

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
    titles: list[str] = []
    monkeypatch.setattr("lowrise.compare.draw_comparison", lambda *_: [])
    monkeypatch.setattr("lowrise.compare.comparison_page", lambda *_: "")

    def step(arguments: list[str], log: Path, title: str, _report: object) -> StepResult:
        titles.append(title.rpartition(": ")[2])
        with log.open("w") as said, redirect_stdout(said), redirect_stderr(said), monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["lowrise", *arguments])
            try:
                cli.main()
            except SystemExit as ended:
                return StepResult(int(ended.code or 0), log, 1.0)
        raise AssertionError("main ends in SystemExit")

    monkeypatch.setattr(steps, "run_step", step)
    return titles


@pytest.fixture
def asked(tiny_folder: Path, text_file: Path, tmp_path: Path) -> Arguments:
    """A sound command; options after it win."""
    texts = ["--text", text_file, "--eval-text", text_file]
    chosen = ["--presets", "streamline-none,laco-last", "--remove", "1,2"]
    return ["compare", tiny_folder, *chosen, *texts, *SMALL, "--out", tmp_path / "out"]
