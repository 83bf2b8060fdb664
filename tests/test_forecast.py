"""How long is left, as it is said while a command goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lowrise import progress
from lowrise.cost.forecast import Forecast
from lowrise.progress import Reporter
from lowrise.results import Estimate, StageEstimate


def forecast_of(**seconds: float) -> Forecast:
    stages = [StageEstimate(name=name, seconds=value, memory_bytes=1, disk_bytes=1) for name, value in seconds.items()]
    about = {"command": "run", "model": "m", "what": "", "layers": 6, "layers_after": 4, "tokens": 1, "machine": ""}
    sizes = {"memory_bytes": 1, "disk_bytes": 1, "kept_bytes": 1}
    return Forecast(Estimate(**about, **sizes, seconds=sum(seconds.values()), stages=stages))  # type: ignore[arg-type]


def test_what_is_left_follows_the_pace_of_what_is_done() -> None:
    found = forecast_of(open=10, search=50, repair=40)
    assert found.left() == pytest.approx(100)
    assert found.left("search", 20) == pytest.approx(70)  # what came before was done by an earlier process
    found.end("open", 10)
    assert found.left("search", 20) == pytest.approx(70)
    found.end("search", 100)  # twice as long: (110 + 10) / (60 + 10) of what is left
    assert found.left("repair") == pytest.approx(40 * 120 / 70)
    assert found.left("repair", 500) == 0


def test_a_stage_that_says_how_long_it_goes_on_is_believed() -> None:
    found = forecast_of(open=10, healing=100, measure=10)
    found.end("open", 10)
    assert found.left("healing", 20) == pytest.approx(90)
    assert found.left("healing", 20, going_on=30) == pytest.approx(40)
    assert found.left("healing", 500, going_on=30) == pytest.approx(40)


def test_a_bar_says_how_long_it_goes_on_by_the_steps_it_made_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now))
    reporter = Reporter(quiet=True)
    with reporter.bar("healing", 20) as bar:
        bar.advance(0, "kept from before", steps=8)
        now = 3.0
        bar.advance(512)
        assert reporter.left_of("healing") is None
        now = 6.0
        bar.advance(512)
        assert reporter.left_of("healing") == pytest.approx(30)
        assert reporter.left_of("measure") is None
    assert reporter.left_of("healing") is None
