"""Run docs/notebooks/quickstart.ipynb from a fresh kernel, and keep what its cells show.

    python scripts/notebook.py [--set NAME=VALUE ...] [--out FILE]

By default on the demo model, in place. `--set LENGTH=32` changes a value of the first cell, for a trial on another
model. Times and machine paths are not kept.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"
_UNKEPT = ("application/vnd.jupyter.widget-view+json",)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the first cell")
    options.add_argument("--out", type=Path, default=NOTEBOOK, help="default: in place")
    asked = options.parse_args()
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    usual = notebook.cells[1].source
    for setting in asked.set:
        notebook.cells[1].source = changed(notebook.cells[1].source, setting)
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": place}}
        NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
    if asked.out == NOTEBOOK:
        notebook.cells[1].source = usual
    tidied(notebook)
    text = nbformat.writes(notebook)
    for path in (f"{ROOT}/", f"{place}/"):  # where this was run is nobody's matter
        text = text.replace(path, "")
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(f"written: {asked.out.name}, {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells run")
    return 0


def changed(cell: str, setting: str) -> str:
    """The first cell with another value for a name. Exits with one line where it has no such name."""
    name, _, value = setting.partition("=")
    text, found = re.subn(rf"(?m)^{re.escape(name)} = [^#\n]*", lambda _: f"{name} = {value}  ", cell)
    if found != 1:
        sys.exit(f"--set {setting}: the first cell has no {name}")
    return text


def tidied(notebook: Any) -> None:
    """Without what differs from run to run, and without progress bars."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr" and not any(kind in output.get("data", {}) for kind in _UNKEPT)
            ]


if __name__ == "__main__":
    sys.exit(main())
