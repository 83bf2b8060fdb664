"""What every type of a file has in common."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

Format = Literal[1]
FORMAT: Format = 1  # files without a format are as of format 1, which is the first that says so


class Record(BaseModel):
    """A part of a file: refuses keys that it does not know, and writes those alone that were set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _what_was_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        written = {key: value for key, value in fields.items() if key in self.model_fields_set}
        return {"format": FORMAT, **written} if "format" in fields else written

    def to_json(self, indent: int | None = 2) -> str:
        """The text of its file."""
        return json.dumps(self.model_dump(), indent=indent)

    def given(self) -> dict[str, Any]:
        """The fields that were set, by name, as they are."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def but(self, **changes: Any) -> Self:
        """A copy with other values of some fields, which are taken as they are."""
        return self.model_copy(update=changes)
