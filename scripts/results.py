"""Every number of the documentation, from the data in docs/data: docs/results.md, blocks of other pages, pictures.

`python scripts/results.py` writes them, `--check` ends with status 1 where one is another, and names it. A block stands
between `<!-- made: NAME -->` and `<!-- end -->`; its names are those of documentation/measured.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from documentation.generated import asked_to_check, write_or_check
from documentation.measured import blocks, section
from documentation.pictures import pictures

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "data"
COMMAND = "python scripts/results.py"
BLOCK = re.compile(r"(?ms)^<!-- made: ([^>]+) -->\n.*?^<!-- end -->$")


def main() -> int:
    check = asked_to_check(__doc__, "a number")
    remedy = f"change docs/data, not the page, then run `{COMMAND}`"
    return write_or_check(made(), check, remedy, "every number is as docs/data has it")


def made() -> Iterator[tuple[Path, str]]:
    """(file, content) of all that is made of the data."""
    data = yaml.safe_load((DATA / "results.yaml").read_text(encoding="utf-8"))
    yield ROOT / "docs" / "results.md", results_page(data)
    known = blocks(data)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        if "<!-- made: " in text:
            yield page, BLOCK.sub(partial(block, known, page), text)
    yield from pictures(DATA)


def block(known: dict[str, str], page: Path, found: re.Match[str]) -> str:
    name = found[1]
    if name not in known:
        sys.exit(f"{page.relative_to(ROOT)}: no block {name!r}; there are {', '.join(sorted(known))}")
    return f"<!-- made: {name} -->\n{known[name]}\n<!-- end -->"


def results_page(data: dict[str, Any]) -> str:
    parts = [f"<!-- generated: {COMMAND} -->", "# Results", data["page"]["about"]]
    for entry in data["page"]["parts"]:
        if isinstance(entry, str):
            table = data["tables"][entry]
            parts += [f"## {table['title']}", section(table)]
        else:
            parts += [f"## {entry['title']}", entry["text"].strip()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
