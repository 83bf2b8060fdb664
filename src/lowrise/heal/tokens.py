"""What a shallow model is healed on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lowrise.calibration import Windows


@dataclass(frozen=True)
class TrainingTokens:
    """Windows to heal on, in the order they are trained on.

    ids: (windows, length) int32. counted: (windows, length) bool, tokens that are targets; None: all but the prefix.
    prefix: tokens in front of every window that are no targets. source: (windows,) int, number of the window's source
    in `names`. held_out: windows of each source that training never sees, by name. guard: (name, windows) of a text
    that training never sees at all. answers: of held-out windows of conversations, by name, (windows, length) bool: the
    tokens whose loss counts.
    """

    ids: Tensor
    counted: Tensor | None
    prefix: int
    source: Tensor
    names: tuple[str, ...]
    held_out: dict[str, Windows]
    guard: tuple[str, Windows]
    answers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def unseen(self) -> dict[str, Windows]:
        """All that training never sees, by name."""
        return {**self.held_out, self.guard[0]: self.guard[1]}
