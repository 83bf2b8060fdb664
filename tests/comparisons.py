"""What the tests of `lowrise compare` share: its finished rows, and settings that keep it small."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from lowrise import cli
from lowrise.compare import steps
from lowrise.compare.child import StepResult

Arguments = list[Any]
SMALL = ["--samples", 8, "--length", 32, "--windows", 2, "--device", "cpu", "--quiet"]


def row_states(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("rows/*/row.json"))}


def steps_inside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps of comparisons run inside this process, where torch is loaded; the titles of those that were run."""
    titles: list[str] = []

    def step(arguments: list[str], log: Path, title: str, _report: object, _heard: object = None) -> StepResult:
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
