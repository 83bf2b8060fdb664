"""Build wheel and sdist into dist/, and use each as a stranger would: installed in an empty environment, on a tiny run.

    python scripts/dist.py [--python python3]

What is checked: the wheel holds all that the package reads and nothing else, `lowrise --version` says the version that
the tag gave it, `lowrise presets` lists them, and `lowrise run` on a tiny model writes what stock transformers opens.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# What the package reads of itself, and what must come along.
NEEDED = ("py.typed", "recipes/refit.yaml", "report/templates/base.html", "licenses/LICENSE", "licenses/NOTICE")
MAKE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import tiny; from pathlib import Path; tiny.save(Path(sys.argv[2]))"
)
OPEN = (
    "import sys; from transformers import AutoModelForCausalLM as M; "
    "print(M.from_pretrained(sys.argv[1]).config.num_hidden_layers)"
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", default=sys.executable, help="makes the empty environment; default: this one")
    python = options.parse_args().python
    shutil.rmtree(DIST, ignore_errors=True)
    say(sys.executable, "-m", "build", "--outdir", DIST, ROOT, where=ROOT)  # names every file that it copies
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_wheel(wheel)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run(python, "-m", "venv", place / "empty")
        own = next(folder for folder in (place / "empty/bin", place / "empty/Scripts") if folder.is_dir())
        pip = [own / "python", "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        run(*pip, "-c", ROOT / "constraints.txt", wheel)
        use(own, place / "wheel", wheel.name.split("-")[1])
        run(*pip, "--no-deps", "--force-reinstall", sdist)
        version = say(own / "lowrise", "--version", where=place)
        assert version == f"lowrise {wheel.name.split('-')[1]}", version
    print(f"{wheel.name} and {sdist.name}: built, installed in an empty environment, and run")
    return 0


def check_wheel(wheel: Path) -> None:
    """Exits with one line where a file is missing from it, or is there that does not belong."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [needed for needed in NEEDED if not any(name.endswith(f"/{needed}") for name in names)]
    foreign = [name for name in names if not name.startswith(("lowrise/", "lowrise-"))]
    if missing or foreign:
        sys.exit(f"{wheel.name}: missing {missing}, foreign {foreign}")


def use(own: Path, place: Path, version: str) -> None:
    """A first run on a tiny model, in a folder where no source lies about."""
    place.mkdir()
    said = say(own / "lowrise", "--version", where=place)
    assert said == f"lowrise {version}", said
    assert "refit-span" in say(own / "lowrise", "presets", where=place)
    run(own / "python", "-c", MAKE, ROOT / "tests", place / "model", where=place)
    (place / "text.txt").write_text("one two three four five six seven eight nine ten " * 400, encoding="utf-8")
    settings = ["--layers", "2-3", "--repair", "refit", "--text", "text.txt", "--samples", "8", "--length", "32"]
    run(own / "lowrise", "run", "model", *settings, "--out", "shallower", "--quiet", where=place)
    layers = say(own / "python", "-c", OPEN, "shallower", where=place)
    assert layers == "4", layers


def run(*command: object, where: Path = ROOT) -> None:
    subprocess.run(list(map(str, command)), check=True, cwd=where, env=environment())


def say(*command: object, where: Path) -> str:
    """What it prints."""
    done = subprocess.run(
        list(map(str, command)), check=True, cwd=where, env=environment(), stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """Of nobody's own: neither this checkout nor packages of the user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.exit(main())
