"""A dense model beside another: how its source is opened, and what is refused before its weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrise.api.models import Model
from lowrise.model.source import layers_of, open_tokenizer
from lowrise.pipeline.healing_in_place import check_depths
from lowrise.pipeline.opening import refuse_other_tokenizer


def as_opened(model: Model) -> dict[str, Any]:
    """What `open` takes to open its source again."""
    settings = model.settings()
    return {"source": settings.pop("model"), **settings}


def check_same_tokens(model: Model | str | Path, dense: Model | str | Path, name: str = "dense") -> None:
    """Raises ModelError, before a source's weights are read, for models that do not read the same tokens."""
    trusted = _trusted(model)
    (ours, source), (theirs, named) = (
        (one.tokenizer, one.source) if isinstance(one, Model) else (open_tokenizer(str(one), **trusted), str(one))
        for one in (model, dense)
    )
    refuse_other_tokenizer(ours, theirs, source, f"{name}, {named}")


def check_shallower(model: Model, dense: str | Path) -> None:
    """Raises ModelError, before weights are read, for a model as deep as the dense one."""
    check_depths(model.source, model.layers, str(dense), layers_of(str(dense), **_trusted(model)))


def _trusted(model: Model | str | Path) -> dict[str, bool]:
    """What sources beside a model may bring: as much as that one might."""
    settings = model.settings() if isinstance(model, Model) and not model.wrapped else {}
    return {key: bool(settings.get(key)) for key in ("trust_remote_code", "allow_pickle")}
