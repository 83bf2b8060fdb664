"""A run on the newest transformers that lowrise says it works with, in a Python of its own; the suite is on the oldest.

The folder that goes first on its path is made by scripts/versions.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PINS = dict(re.findall(r'"(\w+)": \["transformers==([\d.]+)"', (ROOT / "scripts/versions.py").read_text("utf-8")))


@pytest.mark.parametrize("end", PINS)
def test_a_run_at_this_end(end: str, text_file: Path, tmp_path: Path) -> None:
    model = tiny.save(tmp_path / "model", max_position_embeddings=32)
    out = tmp_path / "out"
    settings = "--layers 2-3 --repair refit --heal 512 --samples 8 --length 32 --quiet"
    command = [sys.executable, "-m", "lowrise", "run", str(model), *settings.split()]
    command += ["--text", str(text_file), "--out", str(out)]
    path = os.pathsep.join(map(str, (ROOT / ".versions" / end, ROOT / "src")))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))
    assert results["versions"]["transformers"] == PINS[end]
    assert results["layers"] == 4
    assert results["healing"]["tokens"] > 0


def test_the_table_names_both_ends() -> None:
    table = (ROOT / "docs" / "supported.md").read_text(encoding="utf-8")
    oldest = re.search(r"transformers>=([\d.]+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert oldest is not None
    assert f"| transformers | {oldest[1]}.0 | {PINS['newest']} |" in table
