"""The main job on a real model: SmolLM2-135M without 8 of its 30 layers, those left refit.

Which layers go says block influence, in seconds; the search of the default preset does better and takes ten minutes.

The text is what every Python installation carries, the language reference in `pydoc_data.topics`: calibrated on one
half of its topics, measured on the other.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from fetch_demo_model import FOLDER, fetch


def main() -> int:
    model = fetch()
    names = sorted(topics)
    halves = {"calibration": names[0::2], "evaluation": names[1::2]}
    for half, chosen in halves.items():
        text = "\n\n".join(topics[name] for name in chosen)
        (FOLDER / f"python-topics-{half}.txt").write_text(text, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("lowrise")), "run", str(model), "--preset", "block-influence"]
    command += ["--repair", "refit", "--remove", "8", "--text", str(FOLDER / "python-topics-calibration.txt")]
    command += ["--eval-text", str(FOLDER / "python-topics-evaluation.txt")]
    command += ["--samples", "32", "--length", "512", "--windows", "16"]
    command += ["--out", str(FOLDER / "smollm2-22-layers"), "--force"]
    print("$ lowrise", *command[1:], file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
