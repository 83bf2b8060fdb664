"""A run on the oldest and on the newest transformers that lowrise says it works with, each in a Python of its own.

The folders that go first on its path are made by scripts/versions.py.
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
PINS = dict(
    re.findall(r'"(\w+)": \[\s*(?:\*\()?"transformers==([\d.]+)"', (ROOT / "scripts/versions.py").read_text("utf-8"))
)
WAYS = {
    "refit": ["--layers", "2-3", "--repair", "refit"],
    "streamline": ["--preset", "streamline-none", "--remove", "2", "--heal", "512"],
}


@pytest.mark.parametrize("end", PINS)
def test_a_run_at_this_end(end: str, text_file: Path, tmp_path: Path) -> None:
    model = tiny.save(tmp_path / "model", max_position_embeddings=32)
    for name, options in WAYS.items():
        out = tmp_path / name
        command = [sys.executable, "-m", "lowrise", "run", str(model), *options, "--text", str(text_file)]
        command += ["--samples", "8", "--length", "32", "--out", str(out), "--quiet"]
        path = os.pathsep.join(map(str, (ROOT / ".versions" / end, ROOT / "src")))
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))
        assert results["versions"]["transformers"] == PINS[end]
        assert results["layers"] == 4


def test_the_table_names_both_ends() -> None:
    table = (ROOT / "docs" / "supported.md").read_text(encoding="utf-8")
    for version in PINS.values():
        assert f"| {version} |" in table
