"""LLM-Streamline's networks side by side: perplexity, seconds and peak memory, with and without --avoid-massive.

    python benchmarks/streamline.py --eval-text TEST [--text CALIBRATION] [--remove 8] [--samples 64] [--windows 24]

The span is chosen once for each length (with and without a network) and each choice; every network then gets a
`lowrise apply` of its own, so that its seconds and memory are its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import demo_text, parser, table
from fetch_demo_model import fetch

NETWORKS = [("none", "paper"), ("ffn", "paper"), ("ffn", "portable"), ("swiglu", "paper"), ("swiglu", "portable")]
NETWORKS += [("layer", "paper")]


def lowrise(*arguments: object) -> Any:
    command = [str(Path(sys.executable).with_name("lowrise")), *map(str, arguments), "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--eval-text", required=True)
    arguments.add_argument("--remove", type=int, default=8)
    arguments.add_argument("--samples", type=int, default=64)
    arguments.add_argument("--length", type=int, default=512)
    arguments.add_argument("--windows", type=int, default=24)
    arguments.add_argument("--networks", default="none,ffn,swiglu,layer", help="those of the rows")
    given = arguments.parse_args()
    model = given.model or str(fetch())
    header = ["", "span", "loads plainly", "parameters kept", "perplexity", "× dense", "seconds", "peak MiB"]
    print(table(header, []), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "calibration.txt"
        text.write_text(demo_text(given.text), encoding="utf-8")
        chosen = ["--samples", given.samples, "--length", given.length, "--text", text, "--remove", given.remove]
        measured = ["--text", text, "--eval-text", given.eval_text, "--windows", given.windows]
        for avoid in (False, True):
            plans = {}
            for preset in ("streamline-none", "streamline"):
                file = Path(folder) / f"{preset}-{avoid}.json"
                plans[preset] = lowrise(
                    "plan", model, "--preset", preset, *chosen, "--out", file, *(["--avoid-massive"] if avoid else [])
                )
            for network, form in (row for row in NETWORKS if row[0] in given.networks.split(",")):
                plan = json.loads(json.dumps(plans["streamline-none" if network == "none" else "streamline"]))
                if network != "none":
                    plan["edits"][0] |= {"network": network, "form": form}
                    plan["loads_plainly"] = network == "layer" or form == "portable"
                file, out = Path(folder) / "plan.json", Path(folder) / "out"
                file.write_text(json.dumps(plan))
                results = lowrise("apply", model, file, *measured, "--out", out, "--force")
                (name,) = results["perplexity"]
                edit = plan["edits"][0]
                row = [
                    f"{network} {form if network in ('ffn', 'swiglu') else ''}{' --avoid-massive' if avoid else ''}",
                    f"[{edit['start']}, {edit['stop']})",
                    "yes" if plan["loads_plainly"] else "no",
                    f"{results['retained']['parameters']:.1%}",
                    f"{results['perplexity'][name]['value']:,.1f}",
                    f"{results['retained']['perplexity_ratio'][name]:,.2f}",
                    f"{results['seconds']['total']:,.0f}",
                    f"{results['memory']['peak_resident_bytes'] / 2**20:,.0f}",
                ]
                print(table(header, [row]).splitlines()[-1], flush=True)
        dense = results["dense"]["perplexity"][name]
        print(f"dense: {dense['value']:.2f} over {dense['windows']} windows of {dense['length']} tokens of {name}")


if __name__ == "__main__":
    main()
