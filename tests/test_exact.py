"""float64 on devices that have none. There is no such device here: one that says so stands in."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lowrise.exact import exact, exact_sum

SOURCE = Path(__file__).parent.parent / "src" / "lowrise"


class OnMps:
    """Of a tensor, what may be asked where it lies on a device without float64."""

    device = SimpleNamespace(type="mps")

    def __init__(self, value: torch.Tensor) -> None:
        self._value = value

    def cpu(self) -> torch.Tensor:
        return self._value


@pytest.mark.parametrize("place", [OnMps, lambda value: value], ids=["mps", "cpu"])
def test_float64_is_made_where_there_is_some(place: Any) -> None:
    value = torch.tensor([2.0**24, 1.0, 1.0])  # a float32 sum of which is 2²⁴
    assert torch.equal(exact(place(value)), value.double())
    assert exact_sum(place(value)).item() == 2**24 + 2


def test_nothing_else_makes_float64_of_what_lies_on_a_device() -> None:
    """Sums of a repair and tables of a layer each are made on the CPU, or ask first (`edit/gram.py`)."""
    made = re.compile(r"sum\(\s*dtype=torch\.float64|\w\)?\.double\(\)")
    found = [
        f"{file.relative_to(SOURCE)}: {line.strip()}"
        for file in SOURCE.rglob("*.py")
        if file.name not in ("exact.py", "gram.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if made.search(line)
    ]
    assert found == []
