"""Which weights of a healing are kept: the best on held-out text, of those that did not get worse elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Guarding:
    """guard: the text of `points` that training never sees any part of.

    points: (tokens trained on, loss) of every held-out text, the first at the start. best: the number of the point
    whose weights are kept, 0 for the start.
    """

    guard: str
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best: int = 0

    def add(self, tokens: int, losses: dict[str, float]) -> bool:
        """Whether the weights are now the ones to keep."""
        for name, loss in losses.items():
            self.points.setdefault(name, []).append((tokens, loss))
        number = len(self.points[self.guard]) - 1
        if number and not self.worse(number) and self.mean(number) < self.mean(self.best):
            self.best = number
            return True
        return False

    def mean(self, number: int) -> float:
        """Over the sources' held-out windows, each counting alike."""
        own = [points[number][1] for name, points in self.points.items() if name != self.guard]
        return sum(own) / len(own) if own else self.points[self.guard][number][1]

    def worse(self, number: int = -1) -> bool:
        """Whether the guard's loss is above that of the start, or no number."""
        points = self.points[self.guard]
        return math.isnan(points[number][1]) or points[number][1] > points[0][1]

    @property
    def best_tokens(self) -> int:
        return self.points[self.guard][self.best][0]
