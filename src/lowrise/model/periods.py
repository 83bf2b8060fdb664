"""Settings that tell the kinds of layers by a period.

Alone, or beside a list of the layers of the other kind, a period is what the family reads: `PERIODS_ALONE`. Beside a
list that tells the kinds one by one (`PERIODS`) transformers reads the list; other readers take the period, and one
that no longer describes the stack misleads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lowrise.errors import ModelError

# -- beside a list ----------------------------------------------------------------------------------------------------

# The list that a period stands beside, and the entry of the layers that it counts.
_MARKED = {"layer_types": "full_attention", "no_rope_layers": 0}
PERIODS = {
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "full_attention_interval": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
}

Marks = dict[str, list[bool]]
"""By the name of a list: which layers it marks."""


def marks(config: Any) -> Marks:
    lists = {name: getattr(config, name, None) or () for name in _MARKED}
    return {name: [entry == _MARKED[name] for entry in entries] for name, entries in lists.items() if entries}


def misleading(config: Any, before: Marks) -> list[str]:
    """Names of the periods that do not describe the lists of `config`. before: of the whole stack."""
    now, found = marks(config), []
    for name, listed in PERIODS.items():
        value = vars(config).get(name)
        known = listed in now and listed in before and _is_period(value)
        if known and not _describes(value, now[listed], _offset(value, before[listed])):
            found.append(name)
    return found


def fitting(name: str, value: int | str, now: Marks, before: Marks) -> int | str | None:
    """The period, in the form of `value`, that describes the list beside setting `name`; None if there is none."""
    marked = now[PERIODS[name]]
    offset = _offset(value, before[PERIODS[name]])
    forms = (_letters(marked[:n]) if isinstance(value, str) else n for n in range(1, len(marked) + 1))
    return next((form for form in forms if _describes(form, marked, offset)), None)


def settle_periods(config: Any, before: Marks, difference: Callable[[], str | None], where: str) -> None:
    """Take out of the config what misdescribes its lists of layers by a period, or correct what is read beside them.

    before: of the stack before the cut. difference: to a fresh load. Raises ModelError where no value of such a setting
    is right.
    """
    for name in misleading(config, before):
        value, other = getattr(config, name), difference()
        delattr(config, name)
        if difference() in (None, other):
            continue
        fit = fitting(name, value, marks(config), before)
        if fit is None:
            raise refusal(where, name, value)
        setattr(config, name, fit)


def refusal(where: str, name: str, value: int | str) -> ModelError:
    return ModelError(
        f"{where}: what stays of its layers",
        f"kinds of layers that {name} can tell, which this family reads beside {PERIODS[name]}",
        f"none of its values that fits ({value} until now)",
        "remove other layers, or another number of them",
    )


def _is_period(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value not in (0, "")


def _offset(value: int | str, marked: list[bool]) -> int:
    """Which layer of a period is marked: 0 where the whole stack says the first, else -1, the last."""
    return 0 if not _describes(value, marked, -1) and _describes(value, marked, 0) else -1


def _describes(value: int | str, marked: list[bool], offset: int) -> bool:
    """Whether one of every `value` layers is marked, at `offset` of them, or the letters L and G in turn say so."""
    if isinstance(value, str):
        return _letters(marked) == (value * len(marked))[: len(marked)]
    return marked == _every(value, offset, len(marked))


def _letters(marked: list[bool]) -> str:
    return "".join("G" if mark else "L" for mark in marked)


def _every(period: int, first: int, depth: int) -> list[bool]:
    """Of `depth` layers, whether each is `first` or so many periods away from it."""
    return [(index - first) % period == 0 for index in range(depth)]


# -- alone ------------------------------------------------------------------------------------------------------------


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
        return tuple(_every(period, offset - self.shift, depth)) if offset < period else (False,) * depth

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
