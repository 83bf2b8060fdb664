"""Types of a recipe's keys that are checked against what there is: methods, engines, sizes. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from lowrise.errors import close_names
from lowrise.methods import Kind, current_name, methods
from lowrise.settings import ENGINES


def _known(kind: Kind) -> AfterValidator:
    """A name of the table (`methods/rows.py`); of what a recipe may do without, `none` too."""

    def check(name: str) -> str:
        name = current_name(kind, name)
        names = [*([] if kind == "criterion" else ["none"]), *methods(kind)]
        if name not in names:
            listed = f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
            context = {"remedy": close_names(name, names, "correct the value")}
            raise PydanticCustomError("unknown_method", f"Input should be {listed}", context)
        return name

    return AfterValidator(check)


def _engines(value: object) -> object:
    """A list, or names between commas."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    for name in names if isinstance(names, list) else []:
        if name not in ENGINES:
            near = close_names(str(name), ENGINES)
            raise PydanticCustomError("engine", "one of {names}", {"names": ", ".join(ENGINES), "remedy": near})
    return names


def as_written(parse: Callable[[str], object]) -> AfterValidator:
    """Kept as it is written, once `parse` takes it."""

    def check(text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    return AfterValidator(check)


def _whole(value: float) -> float:
    """As it is written in plans and recipes: 2, not 2.0."""
    return int(value) if float(value).is_integer() else value


Budget = Annotated[
    float, Field(ge=0.1, allow_inf_nan=False), AfterValidator(_whole), PlainSerializer(_whole, return_type=int | float)
]
Select = Annotated[str, _known("criterion")]
Network = Annotated[str, _known("network")]
Repair = Annotated[str, _known("repair")]
Engines = Annotated[list[str], BeforeValidator(_engines)]
