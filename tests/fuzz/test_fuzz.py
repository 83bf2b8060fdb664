"""Whatever is read from outside may be damaged: one line and exit status 2, or a sound end; never anything else.

Not: a traceback, ten seconds, a gigabyte, a file outside the output, or an output half made. Seeds decide the damage;
`PYTHONPATH=src:tests python -m fuzz.driver KIND SEED` shows one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import sound
from fuzz.driver import outcomes
from fuzz.kinds import KINDS

USUAL, THOROUGH = 19, 170  # inputs a kind: 200 and 2,000 in all, and more
LONG = dict.fromkeys(("plan", "folder", "text", "comparison"), 12)  # kinds whose inputs take a run, of the usual suite


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound.make(tmp_path_factory.mktemp("fuzz") / "base")


def check(kind: str, seeds: range, base: Path, work: Path) -> None:
    ended = outcomes(kind, seeds, base, work)
    faults = [f"seed {one.seed}: {one.fault}" for one in ended if one.fault is not None]
    assert not faults, "\n\n".join(faults[:5])
    assert [one.seed for one in ended] == list(seeds)


def test_there_are_as_many_inputs_as_promised() -> None:
    assert sum(LONG.get(kind, USUAL) for kind in KINDS) >= 200
    assert THOROUGH * len(KINDS) >= 2000


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input(kind: str, base: Path, tmp_path: Path) -> None:
    check(kind, range(LONG.get(kind, USUAL)), base, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
def test_more_damaged_input(kind: str, base: Path, tmp_path: Path) -> None:
    check(kind, range(USUAL, USUAL + THOROUGH), base, tmp_path)
