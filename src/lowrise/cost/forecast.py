"""The estimate beside the clock: how long is left, corrected by how long things took so far."""

from __future__ import annotations

from lowrise.results import Estimate

_DOUBT = 0.1  # of the whole estimate: what is done must come to that until its pace is believed to a half


class Forecast:
    """first: the estimate that was said before anything began. estimate: as it stands now; it may be exchanged.

    Stages come in the order of the estimate. Those that are over count as they were, those that were passed over, since
    an earlier process had done them, not at all. What is left is estimated, times the pace: seconds that what is done
    took, over those that were estimated of it, drawn to 1 as long as little is done.
    """

    def __init__(self, estimate: Estimate) -> None:
        self.first = self.estimate = estimate
        self._ended: list[tuple[str, float]] = []

    def end(self, name: str, seconds: float) -> None:
        """A stage is over."""
        self._ended.append((name, seconds))

    def left(self, name: str = "", passed: float = 0.0, going_on: float | None = None) -> float:
        """Seconds. name: of the stage that goes on, for so many seconds. going_on: those it will take yet, where its
        own steps say so.
        """
        stages, at = self.estimate.stages, 0
        done = planned = 0.0
        for ended, seconds in self._ended:
            place = self._place(ended, at)
            if place is not None:
                done, planned, at = done + seconds, planned + stages[place].seconds, place + 1
        doubt = _DOUBT * self.estimate.seconds
        pace = (done + doubt) / (planned + doubt) if planned + doubt > 0 else 1.0
        going = self._place(name, at)
        rest = [pace * stage.seconds for stage in stages[at if going is None else going :]]
        if going is not None:
            rest[0] = max(0.0, rest[0] - passed) if going_on is None else going_on
        return sum(rest)

    def _place(self, name: str, at: int) -> int | None:
        stages = self.estimate.stages
        return next((place for place in range(at, len(stages)) if stages[place].name == name), None)
