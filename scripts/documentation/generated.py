"""Pages that are made from something else: written anew, or, with `--check`, only compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def asked_to_check(about: str | None, stale: str) -> bool:
    """Whether the command line says `--check`. about: the program's docstring. stale: what then is exit status 1."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help=f"write nothing; exit 1 if {stale} is stale")
    return bool(options.parse_args().check)


def write_or_check(pages: Iterable[tuple[Path, str]], check: bool, remedy: str, fine: str) -> int:
    """The exit status. pages: (file, content). remedy: of a stale one. fine: what is said where none is stale."""
    stale = 0
    for file, content in pages:
        if file.is_file() and file.read_text(encoding="utf-8") == content:
            continue
        stale += 1
        name = file.relative_to(ROOT)
        if check:
            print(f"{name} is stale: {remedy}", file=sys.stderr)
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(content, encoding="utf-8")
            print(f"written: {name}")
    if not stale:
        print(fine)
    return 1 if check and stale else 0
