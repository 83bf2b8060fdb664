"""Make the environment of readers on transformers 4: `.transformers4/`, to be put first on PYTHONPATH.

python scripts/transformers4.py        prints the folder

torch and all that both versions share comes from the environment that runs this script.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PINNED = ["transformers==4.57.6", "huggingface_hub==0.36.0", "tokenizers==0.22.1"]
FOLDER = Path(__file__).resolve().parent.parent / ".transformers4"
_DONE = "pinned.txt"


def install(folder: Path = FOLDER, pinned: Sequence[str] = PINNED) -> Path:
    """The folder, filled if it is not there or holds other versions."""
    wanted = "\n".join(pinned) + "\n"
    done = folder / _DONE
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return folder
    print(f"installing {', '.join(pinned)} into {folder.name}", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-compile", "--no-deps", "--upgrade", "--target", str(folder), *pinned], check=True)
    done.write_text(wanted, encoding="utf-8")  # last, so that half a folder is filled again
    return folder


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(install())
