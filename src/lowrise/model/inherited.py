"""What the model card of a shallower model takes over from its base: the licence, and the base's name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LICENCE = ("license", "license_name", "license_link")  # the hub's own words for a model card's header
_HUB = "https://huggingface.co/"


def inherited_metadata(place: Path) -> dict[str, str]:
    """Header entries known of the model at `place`, a folder or a .gguf file; empty where it says nothing.

    A folder says it in the header of its README.md, a GGUF file in `general.license` and `general.source.repo_url`.
    """
    found = _from_gguf(place) if place.is_file() else _from_readme(place / "README.md")
    return {key: value for key, value in found.items() if isinstance(value, str) and _is_one_line(value)}


def _from_readme(file: Path) -> dict[str, Any]:
    """Somebody's prose: a header that cannot be read says nothing, which is no reason to refuse the model."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        header = metadata_load(file)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: header.get(key) for key in _LICENCE} if isinstance(header, dict) else {}


def _from_gguf(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader, Keys

    fields = GGUFReader(file).fields
    general = Keys.General
    names = {"license": general.LICENSE, "license_name": general.LICENSE_NAME, "license_link": general.LICENSE_LINK}
    found = {key: fields[name].contents() for key, name in names.items() if name in fields}
    if general.SOURCE_REPO_URL in fields:
        url = str(fields[general.SOURCE_REPO_URL].contents())
        if url.startswith(_HUB) and url.removeprefix(_HUB).strip("/").count("/") == 1:
            found["base_model"] = url.removeprefix(_HUB).strip("/")
    return found


def _is_one_line(value: str) -> bool:
    return 0 < len(value) <= 300 and value.isprintable()
