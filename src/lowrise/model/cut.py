"""Taking layers out of a model in place, all that follows them included."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrise.errors import ModelError, reason
from lowrise.model.following import follow
from lowrise.model.periods import Marks, express_periods, marks, settle_periods
from lowrise.model.splice import difference, renumber


@dataclass
class Origin:
    """A stack as it was when it was last compared. settings: of its config. numbers: of the layers that are left."""

    settings: dict[str, Any]
    marks: Marks
    numbers: list[int]


def origin_of(model: Any, path: str) -> Origin:
    config = model.config.get_text_config(decoder=True)
    return Origin(copy.deepcopy(vars(config)), marks(config), list(range(len(model.get_submodule(path)))))


def take_out(model: Any, path: str, kept: Sequence[int], origin: Origin, rows: Mapping[str, str]) -> None:
    """Only the layers `kept` of the ModuleList at `path` stay; indices and settings follow, from those of `origin` on.

    rows: of settings that the table of kinds lacks.
    """
    config = model.config.get_text_config(decoder=True)
    vars(config).clear()
    vars(config).update(copy.deepcopy(origin.settings))
    origin.numbers = [origin.numbers[index] for index in kept]
    follow(config, origin.numbers, rows)
    express_periods(config, origin.numbers)
    owner, _, attribute = path.rpartition(".")
    layers = model.get_submodule(path)
    setattr(model.get_submodule(owner), attribute, nn.ModuleList([layers[index] for index in kept]))
    renumber(model.get_submodule(path), kept)


def compare(model: Any, path: str, origin: Origin, where: str) -> str | None:
    """The first difference to what stock transformers builds from the config, or None.

    Raises ModelError where no value of a setting tells these layers.
    """

    def compared() -> str | None:
        return difference(model, path, origin.numbers)

    settle_periods(model.config.get_text_config(decoder=True), origin.marks, compared, where)
    return compared()


def attempt(model: Any, path: str, kept: Sequence[int], where: str, rows: Mapping[str, str]) -> str | None:
    """Both, and what a family's own checks of such a config raise is a difference too."""
    origin = origin_of(model, path)
    try:
        take_out(model, path, kept, origin, rows)
        return compare(model, path, origin, where)
    except ModelError as error:
        return error.found
    except Exception as error:  # noqa: BLE001 - they raise what they like
        return f"no model of the config without them ({type(error).__name__}: {reason(error)})"
