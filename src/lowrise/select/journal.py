"""What a search has measured, step by step: one that begins anew asks for the same steps, and finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrise.work import Work


class Journal:
    """Measurements of the steps of a search, in their order. A search is deterministic: what it asks for next hangs on
    what it measured before, so that the numbers of the steps are enough to know them by.
    """

    def __init__(self, work: Work | None = None) -> None:
        self._work = (work or Work()).part("search")
        self._step = 0

    def known(self, count: int) -> list[Any] | None:
        """What the step at hand measured, if it was kept; the next one is then at hand. count: of its values."""
        found = self._work.find(f"step-{self._step}")
        if found is None:
            return None
        if len(found.value) != count:  # of another search
            self._work.distrust(f"step-{self._step}")
            return None
        self._step += 1
        return list(found.value)

    def keep(self, values: list[Any]) -> None:
        """What the step at hand measured, as plain JSON; the next one is then at hand."""
        self._work.keep(f"step-{self._step}", values, what=f"step {self._step + 1} of the search")
        self._step += 1

    def step(self, count: int, measure: Callable[[], list[Any]]) -> tuple[list[Any], bool]:
        """(what the step at hand measured, whether that was kept)."""
        values = self.known(count)
        if values is not None:
            return values, True
        values = measure()
        self.keep(values)
        return values, False
