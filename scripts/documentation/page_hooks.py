"""What `mkdocs build` is told beside mkdocs.yml, so that pages are read on the site as on GitHub.

`on_page_markdown` is a hook of mkdocs: links out of docs/ lose their target once that is known to exist, and a list or
a table may follow a paragraph without an empty line. `Doctests` is an extension of griffe: examples in docstrings
become blocks of code.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent.parent
_OUTWARD = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+(?:src|scripts|benchmarks|tests|[A-Z]+\.md)[^)]*)\)")
_FENCE = re.compile(r"^\s*(```|~~~)")
_LIST = re.compile(r"^(- |\d+\. )")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    folder = (ROOT / "docs" / page.file.src_path).parent

    def told(link: re.Match[str]) -> str:
        target = link[2].partition("#")[0]
        if not (folder / target).exists():
            logging.getLogger("mkdocs.hooks").warning("%s: no file %s", page.file.src_path, target)
        return link[1] if "`" in link[1] else f"`{link[1]}`"

    return spaced(_OUTWARD.sub(told, markdown))


def spaced(markdown: str) -> str:
    """With an empty line between a paragraph and the list or table behind it."""
    lines: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        before = lines[-1] if lines else ""
        paragraph = (
            bool(before.strip()) and not before.startswith((" ", "|", "#", "<", ">")) and not _LIST.match(before)
        )
        if not fenced and paragraph and (_starts_list(line, lines) or line.startswith("| ")):
            lines.append("")
        if _FENCE.match(line):
            fenced = not fenced
        lines.append(line)
    return "\n".join(lines)


def _starts_list(line: str, before: list[str]) -> bool:
    """A list begins here: its paragraph, from the last empty line on, is not within one."""
    if not _LIST.match(line):
        return False
    for earlier in reversed(before):
        if not earlier.strip():
            return True
        if _LIST.match(earlier):
            return False
    return True


class Doctests(griffe.Extension):  # type: ignore[misc]
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            value = re.sub(
                r"(?m)^>>> (?:.|\n(?!\n|\Z))*", lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value
            )
            obj.docstring.value = value
