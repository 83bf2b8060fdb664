"""Calibration text that the model writes: ours against stock `generate`, same rows and length, in alternation.

python benchmarks/writing.py [--model M] [--samples 50] [--length 512] [--rounds 1]
"""

from __future__ import annotations

import statistics
import time

import torch
from common import open_demo, parser, table

from lowrise.calibration.written import write_windows
from lowrise.progress import Reporter


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=50)
    arguments.add_argument("--length", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=1)
    given = arguments.parse_args()
    opened = open_demo(given.model)
    tokens = given.samples * given.length
    start = torch.full((given.samples, 1), opened.tokenizer.bos_token_id)
    rates: dict[str, list[float]] = {"generate": [], "lowrise": []}
    for seed in range(given.rounds):
        began = time.perf_counter()
        opened.model.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=given.length,
            min_new_tokens=given.length,
            do_sample=True,
        )
        rates["generate"].append(tokens / (time.perf_counter() - began))
        began = time.perf_counter()
        write_windows(
            opened.decoder,
            opened.tokenizer,
            samples=given.samples,
            length=given.length,
            seed=seed,
            progress=Reporter(quiet=True),
        )
        rates["lowrise"].append(tokens / (time.perf_counter() - began))
    ratio = statistics.median(mine / stock for mine, stock in zip(rates["lowrise"], rates["generate"], strict=True))
    rows = [[name, f"{statistics.median(values):,.0f}"] for name, values in rates.items()]
    print(table(["way", "tokens/s (median)"], rows))
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
