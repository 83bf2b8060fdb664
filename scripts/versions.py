"""The newest transformers that lowrise is tested with: `.versions/newest/`, to be put first on PYTHONPATH.

python scripts/versions.py        prints the folder

torch and all that both share comes from the environment that runs this script. docs/supported.md has the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers4 import install

ENDS = {"newest": ["transformers==5.24.0"]}  # the oldest is what constraints.txt has, and the whole suite runs on
FOLDER = Path(__file__).resolve().parent.parent / ".versions"

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, pinned in ENDS.items():
        print(install(FOLDER / name, pinned))
