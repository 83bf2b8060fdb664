"""Settings that tell the kinds of layers by a period, beside `layer_types`, which tells them one by one.

transformers reads the list; other readers take the period, and one that no longer describes the stack misleads them.
"""

from __future__ import annotations

from typing import Any

from lowrise.errors import ModelError

PERIODS = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "global_attn_every_n_layers",
    "full_attention_interval",
    "full_attn_every_n_layers",
    "attention_pattern_period",
)


def misleading(config: Any, before: list[str]) -> list[str]:
    """Names of the periods that describe `config.layer_types` no longer. before: the kinds of the whole stack."""
    kinds = list(getattr(config, "layer_types", None) or ())
    named = [name for name in PERIODS if _is_period(vars(config).get(name))] if kinds else []
    return [
        name for name in named if not _describes(getattr(config, name), kinds, _offset(getattr(config, name), before))
    ]


def fitting(value: int | str, kinds: list[str], before: list[str]) -> int | str | None:
    """The period, in the form of `value`, that describes `kinds`; None if there is none."""
    offset = _offset(value, before)
    forms = (_letters(kinds[:n]) if isinstance(value, str) else n for n in range(1, len(kinds) + 1))
    return next((form for form in forms if _describes(form, kinds, offset)), None)


def refusal(where: str, name: str, value: int | str) -> ModelError:
    return ModelError(
        f"{where}: what stays of its layers",
        f"kinds of layers that {name} can tell, which this family reads beside layer_types",
        f"none of its values that fits ({value} until now)",
        "remove other layers, or another number of them",
    )


def _is_period(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value not in (0, "")


def _offset(value: int | str, kinds: list[str]) -> int:
    """Which layer of a period is the full one: 0 where the whole stack says the first, else -1, the last."""
    return 0 if not _describes(value, kinds, -1) and _describes(value, kinds, 0) else -1


def _describes(value: int | str, kinds: list[str], offset: int) -> bool:
    """Whether one of every `value` layers is full, at `offset` of them, or the letters L and G in turn say so."""
    if isinstance(value, str):
        return _letters(kinds) == (value * len(kinds))[: len(kinds)]
    return all((kind == "full_attention") == ((i - offset) % value == 0) for i, kind in enumerate(kinds))


def _letters(kinds: list[str]) -> str:
    return "".join("G" if kind == "full_attention" else "L" for kind in kinds)
