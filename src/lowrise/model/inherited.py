"""What the model card of a shallower model takes over from its base: the licence, and the base's name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrise.errors import ModelError
from lowrise.headers import gguf_header
from lowrise.reading import parse_yaml, read_text

_LICENCE = ("license", "license_name", "license_link")  # the hub's own words for a model card's header
_HUB = "https://huggingface.co/"
_MOST_README = 16 << 20  # bytes


def inherited_metadata(place: Path | None) -> dict[str, str]:
    """Header entries known of the model at `place`, a folder or a .gguf file; empty where it says nothing, or is None.

    A folder says it in the header of its README.md, a GGUF file in `general.license` and `general.source.repo_url`.
    """
    if place is None:
        return {}
    found = _from_gguf(place) if place.is_file() else _from_readme(place / "README.md")
    return {key: value for key, value in found.items() if isinstance(value, str) and _is_one_line(value)}


def _from_readme(file: Path) -> dict[str, Any]:
    """Somebody's prose: a header that cannot be read says nothing, which is no reason to refuse the model."""
    try:
        text = read_text(file, ModelError, "a model card", "mend it", most=_MOST_README)
        header = parse_yaml(_header_of(text), file, ModelError, "a header in YAML", "mend it")
    except ModelError:
        return {}
    return {key: header.get(key) for key in _LICENCE} if isinstance(header, dict) else {}


def _header_of(text: str) -> str:
    """What stands between two lines of three dashes, the first of them the text's first line."""
    first, *lines = text.lstrip("\ufeff\n\t ").split("\n")
    if first.rstrip() != "---":
        return ""
    ends = (number for number, line in enumerate(lines) if line.rstrip() == "---")
    return "\n".join(lines[: next(ends, 0)])


def _from_gguf(file: Path) -> dict[str, Any]:
    from gguf import Keys

    metadata, general = gguf_header(file).metadata, Keys.General
    names = {"license": general.LICENSE, "license_name": general.LICENSE_NAME, "license_link": general.LICENSE_LINK}
    found = {key: metadata[name] for key, name in names.items() if name in metadata}
    if general.SOURCE_REPO_URL in metadata:
        url = str(metadata[general.SOURCE_REPO_URL])
        if url.startswith(_HUB) and url.removeprefix(_HUB).strip("/").count("/") == 1:
            found["base_model"] = url.removeprefix(_HUB).strip("/")
    return found


def _is_one_line(value: str) -> bool:
    return 0 < len(value) <= 300 and value.isprintable()
