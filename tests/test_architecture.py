"""What holds for the whole package: import directions, import cost, names of families."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lowrise as package
from lowrise.model.families import FAMILIES

ROOT = Path(package.__file__).parent


@pytest.mark.parametrize("code", ["import lowrise", "from lowrise import cli; cli.typer.main.get_command(cli.app)"])
def test_no_heavy_import(code: str) -> None:
    check = f"{code}; import sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_help_comes_fast(lowrise: object) -> None:
    """The bound is 0.5 s on an idle machine; the best of several runs is taken, since this one may be busy."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert lowrise("--help").returncode == 0  # type: ignore[operator]
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_imports_run_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=ROOT.parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_family_names_stand_in_model_and_engines_alone() -> None:
    pattern = re.compile("|".join(f"[\"']{name}[\"']" for name in FAMILIES))
    guilty = [
        str(file)
        for file in ROOT.rglob("*.py")
        if not {"model", "engines"} & {*file.parts} and pattern.search(file.read_text(encoding="utf-8"))
    ]
    assert guilty == []
