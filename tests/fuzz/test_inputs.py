"""Damaged inputs of every kind: a fitting exit status, one line, no traceback, no hang, nothing written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import driver, sound
from fuzz.kinds import KINDS

# Seeds of each kind: by default, and in the slow suite; runs of the whole path take longer than a look at a header.
QUICK = {"plan": 10, "folder": 10, "comparison": 10, "text": 15, "tasks": 5}
SLOW = {"plan": 120, "folder": 120, "comparison": 120, "text": 150, "tasks": 60}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound inputs, which damaged copies are made of."""
    return sound.make(tmp_path_factory.mktemp("fuzz") / "base")


def check(kind: str, seeds: range, base: Path, work: Path) -> None:
    found = driver.outcomes(kind, seeds, base, work)
    faults = [f"{kind} {outcome.seed}: {outcome.fault}" for outcome in found if outcome.fault is not None]
    assert not faults, "\n\n".join(faults)
    assert len(found) == len(seeds)


@pytest.mark.parametrize("kind", KINDS)
def test_some(kind: str, base: Path, tmp_path: Path) -> None:
    check(kind, range(QUICK.get(kind, 22)), base, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind: str, base: Path, tmp_path: Path) -> None:
    check(kind, range(1000, 1000 + SLOW.get(kind, 220)), base, tmp_path)


def test_there_are_as_many_as_promised() -> None:
    assert sum(QUICK.get(kind, 22) for kind in KINDS) >= 200
    assert sum(SLOW.get(kind, 220) for kind in KINDS) >= 2000
