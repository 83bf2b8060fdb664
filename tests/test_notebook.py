"""docs/notebooks/quickstart.ipynb: its cells run, in order, from a fresh kernel."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"


def test_it_was_run_from_top_to_bottom_without_an_error() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], "run `make notebook`"
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="nbclient comes with the extra `docs`")
def test_it_runs_on_a_tiny_model(tmp_path: Path) -> None:
    model = tiny.save(tmp_path / "model")
    values = {"MODEL": f'"{model}"', "GONE": "2", "SAMPLES, LENGTH": "8, 32", "HEAL": '"1024"', "HEAL_LENGTH": "64"}
    command = [sys.executable, str(ROOT / "scripts" / "notebook.py"), "--out", str(tmp_path / "run.ipynb")]
    for name, value in {**values, "WRITES": "4"}.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "run.ipynb").read_text(encoding="utf-8"))["cells"]
    assert "4 layers" in json.dumps(cells[-2]["outputs"])
