"""Write the tables of what engines read into docs/engines.md, from the rows in lowrise.engines.

python scripts/engine_facts.py [--check]

--check changes nothing, and exits 1 where the document holds other tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from os.path import commonprefix
from pathlib import Path

from lowrise.engines import ENGINES, Engine, Fact
from lowrise.engines.rules import AsWritten

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "engines.md"


def replaced(text: str, part: str, content: str) -> str:
    """The document with other content between the marks of a part."""
    begin, end = f"<!-- {part}: generated -->", f"<!-- {part}: end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def facts() -> str:
    return "\n\n".join(part for engine in ENGINES.values() for part in _of(engine))


def _of(engine: Engine) -> list[str]:
    parts = [f"### {engine.title}, {engine.version}", f"`--for {engine.name}`. From {engine.obtained}."]
    if engine.reference:
        return [*parts, "What the others are compared with. Every output is proven by reloading it there."]
    plain = [fact for fact in engine.facts if isinstance(fact.rule, AsWritten)]
    own = [fact for fact in engine.facts if not isinstance(fact.rule, AsWritten)]
    parts.append(f"Read as written, unless a row below says otherwise: {_families(plain)}.")
    if engine.families is not None:
        parts.append(f"It refuses a `model_type` that is none of the {len(engine.families)} that it knows.")
    if engine.architectures is not None:
        parts.append(f"Its converter refuses an architecture that is none of the {len(engine.architectures)} it knows.")
    rows: dict[str, list[Fact]] = {}
    for fact in own:
        rows.setdefault(fact.says, []).append(fact)
    lines = [
        "| family | what it does | source |",
        "| --- | --- | --- |",
        *(f"| {_families(those)} | {says} | `{_source(those)}` |" for says, those in rows.items()),
        *(f"| every one | {says} | `{source}` |" for _, source, says in engine.always),
    ]
    return [*parts, "\n".join(lines)]


def _source(those: list[Fact]) -> str:
    """Of rows that say the same, with a star where their sources differ."""
    sources = list(dict.fromkeys(fact.source for fact in those))
    if len(sources) == 1:
        return sources[0]
    begin = commonprefix(sources)  # noqa: RUF071 characters, not folders
    end = commonprefix([source[::-1] for source in sources])[::-1]  # noqa: RUF071
    return f"{begin}*{end}"


def _families(those: list[Fact]) -> str:
    return ", ".join(f"`{name}`" for name in sorted({fact.family for fact in those}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the document is as it should be")
    given = parser.parse_args()
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = replaced(text, "facts", facts())
    if not given.check:
        DOCUMENT.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        sys.exit(f"{DOCUMENT.name} holds other facts: python scripts/engine_facts.py")
    print(f"{DOCUMENT.name} holds the facts of {len(ENGINES)} engines")


if __name__ == "__main__":
    main()
