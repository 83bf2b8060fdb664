"""What whole runs and comparisons open: the source that a model has, or a copy of one that was wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.api.models import Model
from lowrise.api.progress import Progress
from lowrise.files import held
from lowrise.files.siblings import remove

_NAMELESS = "model"


@dataclass(frozen=True)
class Source:
    """settings: keys of a recipe that open the model. copied: the wrapped model that is to be written there first."""

    settings: dict[str, Any]
    copied: Model | None = None

    @contextmanager
    def there(self, progress: Progress) -> Iterator[None]:
        """What the settings name can be opened meanwhile.

        A copy that a killed process left is used, since its name says what is in it.
        Raises OutputError while another process works with it, and what `Model.save` raises.
        """
        if self.copied is None:
            yield
            return
        copy = Path(self.settings["model"])
        with held(copy.parent):
            try:
                if not copy.exists():
                    self.copied.save(copy, progress=progress)
                yield
            finally:
                remove(copy.parent)


def source_of(model: Model | str | Path, out: Path) -> Source:
    """out: of the run. A copy is a hidden sibling of it, named by the hash of the weights: the same call goes on where
    an earlier one was stopped. It is opened in the wrapped model's number format, on its device.

    Raises ModelError for a wrapped model that was edited or healed.
    """
    if not isinstance(model, Model):
        return Source({"model": str(model)})
    if not model.wrapped:
        return Source(model.settings())
    sha256 = model.unedited().record.sha256
    place = out.resolve()
    name = re.sub(r"[^\w.-]", "-", Path(model.source).name).strip(".") or _NAMELESS
    devices = {parameter.device for parameter in model.hf_model.parameters()}
    settings = {
        "model": str(place.with_name(f".{place.name}.{sha256[:8]}.dense") / name),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device) if len(devices) == 1 else "auto",
    }
    return Source(settings, model)
