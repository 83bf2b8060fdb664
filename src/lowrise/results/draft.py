"""`draft` of results.json: a shallow model as the draft of its dense one."""

from __future__ import annotations

from lowrise.results.record import Record


class Draft(Record):
    """What `measure --draft-for` finds (`measure/draft.py`, which defines the numbers).

    equal: prompts, of all, whose text was the dense model's own. tokens: that were written behind them. length: tokens
    that the draft writes a round, γ. rounds: passes of the dense model. drafted: tokens that the draft wrote; accepted:
    of them, those that were kept. chance: α, that a token which was looked at is accepted; null without any. cost: c, a
    pass of the draft in passes of the dense model, each of one token. tokens_per_second: of the dense model alone, and
    with the draft. expected: how many times faster, of α, γ and c; best: the same of the best γ, best_length.
    break_even: c below which this γ is faster. layers_break_even: layers that a draft may have at most to be faster
    with the best γ, if it were accepted as often; null where no number is. layers: of the draft.
    """

    dense: str
    prompts: int
    equal: int
    tokens: int
    length: int
    rounds: int
    drafted: int
    accepted: int
    chance: float | None
    cost: float
    dense_tokens_per_second: float
    tokens_per_second: float
    expected: float | None
    best: float | None
    best_length: int | None
    break_even: float | None
    layers: int
    layers_break_even: int | None

    @property
    def acceptance(self) -> float | None:
        """The share of what was drafted that was kept."""
        return self.accepted / self.drafted if self.drafted else None
