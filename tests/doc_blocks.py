"""Blocks of code in README.md and docs/: what is said to be one, where it stands, and why one is not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
RUN = ("sh", "python")  # the others hold data and what commands print
LANGUAGES = (*RUN, "json", "toml", "yaml", "text")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """line: of its first fence, from 1. not_run: the reason that a comment before it gives."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that it holds, if its first line is a comment with one."""
        named = re.fullmatch(r"# ([\w/.-]+\.\w+)", self.code.split("\n")[0])
        return None if named is None else named[1]

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.not_run is None

    def commands(self) -> list[list[str]]:
        """Of a block of shell, in words; a backslash at a line's end joins it with the next."""
        lines = self.code.replace("\\\n", " ").split("\n")
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """Those of a page, fenced by ``` at the start of a line."""
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = next((text for text in reversed(lines[:start]) if text.strip()), "")
        told = _NOT_RUN.fullmatch(before.strip())
        yield Block(page, start + 1, lines[start][3:].strip(), "\n".join(lines[start + 1 : number]), told and told[1])
        start = None
    if start is not None:
        raise ValueError(f"{page}:{start + 1}: a block that does not end")
