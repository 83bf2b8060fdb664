"""What torch's threads do while they wait: measured by `benchmarks/threads.py`, here whether it is set in time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SHOW = "import os, sys, lowrise; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("own", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_they_sleep_soon_unless_the_user_says_otherwise(own: dict[str, str], expected: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    said = subprocess.check_output([sys.executable, "-c", _SHOW], env={**rest, **own}, text=True)
    assert said.split() == [expected, "False"]
