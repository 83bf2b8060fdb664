"""The main job on a real model: SmolLM2-135M without 4 of its 30 layers, those left refit.

Which layers go says the cosine of LLM-Streamline, in seconds: one span, so one layer is fitted by gradient descent. The
search of the default preset does better and takes longer than all of this. The repair is fitted on 6 windows, which is
soon done: more --samples keep more.

The text is what every Python installation carries, the language reference in `pydoc_data.topics`: calibrated on one
half of its topics, measured on the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from fetch_demo_model import FOLDER, fetch


def texts(folder: Path) -> tuple[Path, Path]:
    """(calibration, evaluation), written into `folder`."""
    names = sorted(topics)
    halves = {"calibration": names[0::2], "evaluation": names[1::2]}
    folder.mkdir(parents=True, exist_ok=True)
    for half, chosen in halves.items():
        text = "\n\n".join(topics[name] for name in chosen)
        (folder / f"python-topics-{half}.txt").write_text(text, encoding="utf-8")
    calibration, evaluation = (folder / f"python-topics-{half}.txt" for half in halves)
    return calibration, evaluation


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="default: the demo model, fetched if it is not there")
    options.add_argument("--folder", type=Path, default=FOLDER, help="where texts and the result go; default: .demo")
    for name, value in {"remove": 4, "samples": 6, "length": 512, "windows": 6}.items():
        options.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    asked = options.parse_args()
    model = asked.model or str(fetch())
    calibration, evaluation = texts(asked.folder)
    command = [str(Path(sys.executable).with_name("lowrise")), "run", model, "--preset", "streamline-none"]
    command += ["--avoid-massive", "--repair", "refit", "--remove", str(asked.remove), "--text", str(calibration)]
    command += ["--eval-text", str(evaluation), "--samples", str(asked.samples), "--length", str(asked.length)]
    command += ["--windows", str(asked.windows), "--out", str(asked.folder / "shallower"), "--force"]
    print("$ lowrise", *command[1:], file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
