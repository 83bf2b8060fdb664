"""Periods that tell the kinds of layers by their numbers, where the family reads no list beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Period:
    """Marks the layers i with (i + `shift`) % setting == offset.

    setting, offset: names; no offset: 0. unmarked: the setting that lists the others by their numbers, if there is one.
    """

    setting: str
    offset: str | None = None
    shift: int = 0
    unmarked: str | None = None

    def value(self, config: Any) -> tuple[int, int] | None:
        """(period, offset), or None where the config has none."""
        period = vars(config).get(self.setting)
        offset = 0 if self.offset is None else vars(config).get(self.offset)
        numbers = isinstance(period, int) and isinstance(offset, int) and not isinstance(period, bool)
        return (period, offset) if numbers and period > 0 else None

    def marks(self, period: int, offset: int, depth: int) -> tuple[bool, ...]:
        return tuple((index + self.shift) % period == offset for index in range(depth))

    def fitting(self, marked: Sequence[bool], period: int) -> tuple[int, int] | None:
        """The (period, offset) that marks these layers; the period as it was, if it can be."""
        depth = len(marked)
        for one in (period, *range(1, depth + 2)):
            for offset in (0,) if self.offset is None else range(one):
                if self.marks(one, offset, depth) == tuple(marked):
                    return one, offset
        return None

    def write(self, config: Any, period: int, offset: int) -> None:
        setattr(config, self.setting, period)
        if self.offset is not None:
            setattr(config, self.offset, offset)


PERIODS_ALONE = (
    Period("decoder_sparse_step", shift=1, unmarked="mlp_only_layers"),
    Period("moe_layer_interval", shift=1),
    Period("attn_layer_period", "attn_layer_offset"),
    Period("expert_layer_period", "expert_layer_offset"),
)


def express_periods(config: Any, kept: Sequence[int]) -> None:
    """Bring periods in line with the layers that stay, where a value does. config: all else has followed the cut."""
    for row in PERIODS_ALONE:
        value = row.value(config)
        if value is None:
            continue
        marked = [row.marks(*value, depth=max(kept) + 1)[index] for index in kept]
        if row.marks(*value, depth=len(kept)) == tuple(marked):
            continue
        if row.unmarked is not None and hasattr(config, row.unmarked):
            others = {index for index, mark in enumerate(marked) if not mark}
            setattr(config, row.unmarked, sorted({*(getattr(config, row.unmarked) or ()), *others}))
            row.write(config, 1, 0)
            continue
        fit = row.fitting(marked, value[0])
        if fit is not None:
            row.write(config, *fit)
