"""The oldest and the newest transformers that lowrise is tested with: `.versions/NAME/`, to be put first on PYTHONPATH.

python scripts/versions.py        prints the folders

torch and all that both share comes from the environment that runs this script. docs/supported.md has the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers4 import install

ENDS = {
    "oldest": [
        *("transformers==5.0.0", "huggingface_hub==1.3.4", "tokenizers==0.22.2"),
        *("httpx==0.28.1", "httpcore==1.0.9"),  # which that huggingface_hub asks by
    ],
    "newest": ["transformers==5.24.0"],
}
FOLDER = Path(__file__).resolve().parent.parent / ".versions"

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, pinned in ENDS.items():
        print(install(FOLDER / name, pinned))
