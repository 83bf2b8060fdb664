"""Hashes of what every method makes, to show that a refactoring changed nothing.

python scripts/record_bytes.py before.json            record, on tiny random models of five families
python scripts/record_bytes.py before.json --check    run again and name every case that differs; exit 1 if one does
--demo                                                three presets on the demo model too, minutes

A case is a preset on a family, with each repair that it takes. Hashed are the plan, without where things lie and
which versions made it, and all weight files.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

FAMILIES = ("llama", "qwen2", "gemma3_text", "gpt2", "olmo2")
REPAIRS = ("none", "fold", "fold-cosine", "refit")
DEMO = ("block-influence", "replaceme", "laco-mean")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the hashes are kept")
    parser.add_argument("--check", action="store_true", help="compare with what the file says")
    parser.add_argument("--demo", action="store_true", help="the demo model too")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    asked = parser.parse_args()
    known: dict[str, Any] = json.loads(asked.file.read_text(encoding="utf-8")) if asked.check else {}
    found = {}
    differing = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["LOWRISE_CACHE"] = str(Path(name) / "cache")
        for case, arguments in cases(Path(name), asked.demo):
            if asked.only not in case:
                continue
            found[case] = run(arguments, Path(name) / "out")
            print(f"{case}: {json.dumps(found[case])[:100]}", flush=True)
            if asked.check and case not in known:
                print("    new")
            elif asked.check and found[case] != known[case]:
                differing.append(case)
                print(f"    differs: was {json.dumps(known[case])[:100]}", flush=True)
    if not asked.check:
        asked.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} cases, {len(differing)} differ")
    return 1 if differing else 0


def cases(folder: Path, demo: bool) -> Iterator[tuple[str, list[str]]]:
    """(name, arguments of `lowrise run` but for --out)."""
    import tiny
    from lowrise.recipe import presets

    text = folder / "text.txt"
    text.write_text(tiny.text(3000), encoding="utf-8")
    for family in FAMILIES:
        model = tiny.save(folder / family, family, num_hidden_layers=8)
        for preset in presets():
            common = [str(model), "--preset", preset, "--remove", "2", "--text", str(text), "--windows", "1"]
            common += ["--samples", "12", "--length", "48"]
            common += ["--heal", "1k"] if "heal" in presets()[preset].settings else []
            yield f"{family} {preset}", common
            for repair in REPAIRS:
                yield f"{family} {preset} --repair {repair}", [*common, "--repair", repair]
    if demo:
        from fetch_demo_model import fetch

        for preset in DEMO:
            small = ["--remove", "6", "--text", str(ROOT / "README.md"), "--samples", "8", "--length", "256"]
            yield f"demo {preset}", [str(fetch()), "--preset", preset, *small, "--windows", "1"]


def run(arguments: list[str], out: Path) -> dict[str, str]:
    """Hashes of the plan and the weights, or the exit status and the line of a case that is refused."""
    from lowrise import cli
    from lowrise.measure import samples

    samples.NEW_TOKENS = 8  # written text is no part of a plan, and a quarter of a run
    sys.argv = ["lowrise", "run", *arguments, "--out", str(out), "--quiet", "--force"]
    errors = io.StringIO()
    keeping = mock.patch.object(cli, "keep_streams")  # stdout and stderr are this script's
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors), keeping:
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
    if status:
        return {"status": str(status), "line": errors.getvalue().strip().splitlines()[-1].replace(str(out.parent), "")}
    plan = json.loads((out / "lowrise" / "plan.json").read_text(encoding="utf-8"))
    weights = hashlib.sha256()
    for file in sorted(out.glob("*.safetensors")):
        weights.update(file.read_bytes())
    text = json.dumps(_lasting(plan), sort_keys=True)
    return {"plan": hashlib.sha256(text.encode()).hexdigest(), "weights": weights.hexdigest()}


def _lasting(plan: Any) -> Any:
    """Without paths and versions."""
    if isinstance(plan, dict):
        return {
            key: _lasting(value) for key, value in plan.items() if key not in ("source", "path", "versions", "format")
        }
    return [_lasting(value) for value in plan] if isinstance(plan, list) else plan


if __name__ == "__main__":
    sys.exit(main())
