"""Taking layers out of a model in place, all that follows them included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lowrise.errors import ModelError, reason
from lowrise.model.following import follow
from lowrise.model.numbered import express_periods
from lowrise.model.periods import marks, settle_periods
from lowrise.model.splice import difference, renumber


def cut(model: Any, path: str, kept: Sequence[int], where: str, rows: Mapping[str, str] | None = None) -> str | None:
    """Only the layers `kept` of the ModuleList at `path` stay; indices and settings follow.

    rows: of settings that the table of kinds lacks. The first difference to what stock transformers builds from the new
    config, or None. Raises ModelError where no value of a setting tells these layers.
    """
    config = model.config.get_text_config(decoder=True)
    before = marks(config)
    follow(config, kept, rows)
    express_periods(config, kept)
    owner, _, attribute = path.rpartition(".")
    layers = model.get_submodule(path)
    setattr(model.get_submodule(owner), attribute, nn.ModuleList([layers[index] for index in kept]))
    renumber(model.get_submodule(path), kept)

    def compared() -> str | None:
        return difference(model, path, kept)

    settle_periods(config, before, compared, where)
    return compared()


def attempt(model: Any, path: str, kept: Sequence[int], where: str, rows: Mapping[str, str]) -> str | None:
    """The same, and what a family's own checks of such a config raise is a difference too."""
    try:
        return cut(model, path, kept, where, rows)
    except ModelError as error:
        return error.found
    except Exception as error:  # noqa: BLE001 - they raise what they like
        return f"no model of the config without them ({type(error).__name__}: {reason(error)})"
