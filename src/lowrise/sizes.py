"""Layers, parameters and bytes as people write them."""

from __future__ import annotations

import math
import re

from lowrise.errors import RecipeError

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
MOST_NAMED = 10**4  # layers; more than any model has, and few enough to be listed


def named_layers(text: str) -> list[int]:
    """`12-19,21`: layers, 0-based, both ends of a range included; in order. Raises ValueError, as a pydantic validator
    does, for anything else, and for a layer named twice.
    """
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,7})\s*(?:-\s*([0-9]{1,7})\s*)?", part)
        if found is None:
            raise ValueError("layers and ranges of them between commas, as 12-19,21")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST_NAMED:
            raise ValueError("ranges from a lower to a higher layer, as 12-19")
        layers += range(first, last + 1)
    twice = [layer for layer in layers if layers.count(layer) > 1] if len(set(layers)) < len(layers) else []
    if twice:
        raise ValueError(f"every layer once, not layer {twice[0]} twice")
    return sorted(layers)


def count_of(text: str) -> int:
    """`1.1B`, `350M` or a plain number. Raises ValueError for anything else."""
    return _amount(text, _COUNTS, "a number of parameters such as 1.1B or 350M")


def bytes_of(text: str) -> int:
    """`2GB` is 2·10⁹ bytes, `2GiB` 2·2³⁰. Raises ValueError for anything else."""
    plain = text.strip().upper().removesuffix("B")
    return _amount(plain, {"": 1, **_BYTES}, "a size such as 2GB, 500MB or 1.5GiB")


def memory_bound(text: str) -> int | None:
    """Bytes; None for `auto`, what is free. Raises ValueError for anything else."""
    if text.strip().lower() == "auto":
        return None
    try:
        return bytes_of(text)
    except ValueError as error:
        raise ValueError("auto, or a size such as 2GB, 500MB or 1.5GiB") from error


def said_bytes(size: float) -> str:
    """As `bytes_of` takes it: 2.05GB, 340MB. Rounded up, so that what is said is enough."""
    if size < 10**9:
        return f"{math.ceil(size / 10**6)}MB"
    return f"{math.ceil(size / 10**7) / 100:g}GB"


def _amount(text: str, units: dict[str, int], expected: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Z]*)", text.strip().upper())
    if found is None or found[2] not in units:
        raise ValueError(expected)
    value = float(found[1]) * units[found[2]]
    if not 1 <= value < 2**63 or math.isinf(value):
        raise ValueError(expected)
    return int(value)


def layers_to_remove(remove: str | None, layers: int) -> int:
    """Net layers that `remove` ("8" or "25%") asks of a model of `layers` layers; percentages round to the nearest.

    Raises RecipeError unless at least one layer goes and one original layer's place is left.
    """
    text = (remove or "").strip()
    most = layers - 1
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if text.endswith("%"):
        count = round(number / 100 * layers) if 0 < number < 100 else 0
        expected = f"a share between 0% and 100% that removes 1 to {most} of the {layers} layers"
    else:
        count = int(number) if number == number and number.is_integer() else 0
        expected = f"1 to {most} of the {layers} layers, or a share such as 25%"
    if not 1 <= count <= most:
        raise RecipeError("--remove", expected, repr(remove), "give such a number")
    return count
