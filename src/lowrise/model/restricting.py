"""What the settings of a model can express of cuts, where they cannot express all.

A period that a family reads where there is no list: the layers that stay must be told by some value of it. Layers that
lend others their keys and values must stay. So must a first or a last layer that is unlike the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from lowrise.model.cut import attempt
from lowrise.model.depth import depth
from lowrise.model.following import per_layer_lists
from lowrise.model.periods import PERIODS_ALONE, Period
from lowrise.model.splice import first_difference, layer_facts
from lowrise.model.trial import twin
from lowrise.restriction import Restriction

# So many layers from the end take the keys and values of the last layer of their type before them.
_SHARED = "num_kv_shared_layers"


def restrictions_of_settings(model: Any, path: str) -> list[Restriction]:
    """What periods and shared keys and values can express of cuts; none for most families. path: of its layers."""
    config = model.config.get_text_config(decoder=True)
    found = [period_restriction(row, config) for row in PERIODS_ALONE if _is_read(row, model, path)]
    shared = vars(config).get(_SHARED)
    if isinstance(shared, int) and shared > 0 and getattr(config, "layer_types", None):
        found.append(sharing_restriction(config, shared))
    return found


def _is_read(row: Period, model: Any, path: str) -> bool:
    """Whether stock transformers builds other layers with another value, and no list can say the same."""
    config = model.config.get_text_config(decoder=True)
    value = row.value(config)
    if value is None or (row.unmarked is not None and hasattr(config, row.unmarked)):
        return False
    if len(set(row.marks(*value, depth=depth(config)))) == 1:  # which some value tells at every depth
        return False
    other = (value[0] + 1, value[1]) if value[0] <= depth(config) else (1, 0)
    return first_difference(model, path, lambda text: row.write(text, *other)) is not None


def period_restriction(row: Period, config: Any) -> Restriction:
    """The layers that stay must be marked by some value of the period."""
    value = row.value(config)
    assert value is not None
    names = (f"not {row.setting}", row.setting)

    def kinds(marked: Sequence[bool]) -> tuple[str, ...]:
        return tuple(names[mark] for mark in marked)

    def patterns(left: int) -> list[tuple[str, ...]]:
        periods = range(1, left + 2)
        values = ((one, offset) for one in periods for offset in ((0,) if row.offset is None else range(one)))
        return list(dict.fromkeys(kinds(row.marks(*value, depth=left)) for value in values))

    reason = f"{config.model_type} takes from a layer's number and {row.setting} ({value[0]}) which kind it is of"
    return Restriction(reason, kinds(row.marks(*value, depth=depth(config))), patterns)


def sharing_restriction(config: Any, shared: int) -> Restriction:
    """The last `shared` layers take keys and values from the last layer of their type before them, which must stay."""
    types = list(config.layer_types)
    first = len(types) - shared
    lent = set(types[first:]) & set(types[:first])
    sources = sorted(max(index for index in range(first) if types[index] == kind) for kind in lent)
    lends = {index: f"lends {types[index]}" for index in sources}
    kinds = tuple("takes" if index >= first else lends.get(index, "own") for index in range(len(types)))
    between = [stop - start - 1 for start, stop in zip([-1, *sources], [*sources, first], strict=True)]

    def patterns(left: int) -> list[tuple[str, ...]]:
        found = []
        for counts in product(*(range(one + 1) for one in between)):
            takes = left - sum(counts) - len(sources)
            if 0 <= takes <= shared:
                parts = [(*("own",) * count, kinds[source]) for count, source in zip(counts, sources, strict=False)]
                found.append((*(kind for part in parts for kind in part), *("own",) * counts[-1], *("takes",) * takes))
        return found

    lending = " and ".join(map(str, sources))
    reason = f"the last {shared} layers of {config.model_type} take keys and values from layers {lending}, which stay"
    return Restriction(reason, kinds, patterns)


def restrictions_of_ends(
    model: Any, path: str, where: str, rows: Mapping[str, str], others: Sequence[Restriction]
) -> list[Restriction]:
    """A first or a last layer that stock transformers builds unlike the others, whichever that is.

    rows: of settings that the table of kinds lacks. others: restrictions that are known already.
    """
    stack, config = model.get_submodule(path), model.config.get_text_config(decoder=True)
    layers, lists = list(range(len(stack))), [getattr(config, name) for name in per_layer_lists(config)]
    found = []
    for name, end, beside in (("first", 0, 1), ("last", layers[-1], layers[-1] - 1)):
        kept = [layer for layer in layers if layer != end]
        if not kept or not all(one.allows(kept) for one in others):
            continue
        listed = [repr([entries[layer] for entries in lists]) for layer in (end, beside)]
        if listed[0] == listed[1] and layer_facts(stack[end]) == layer_facts(stack[beside]):
            continue  # without it the stack is the same as without the other
        difference = attempt(twin(model), path, kept, where, rows)
        if difference is not None:
            kinds = tuple(name if layer == end else f"not {name}" for layer in layers)
            found.append(Restriction(f"the {name} layer stays: without it {difference}", kinds, _staying(name)))
    return found


def _staying(name: str) -> Callable[[int], list[tuple[str, ...]]]:
    def patterns(left: int) -> list[tuple[str, ...]]:
        others = (f"not {name}",) * (left - 1)
        return [(name, *others) if name == "first" else (*others, name)]

    return patterns
