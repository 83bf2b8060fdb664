"""Stages and a machine's rates into an estimate, and the three lines that say it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowrise.cost.work import Rates, Stage
from lowrise.report import words
from lowrise.results import Estimate, StageEstimate

BASE_BYTES = 0.45e9  # of a process that has imported torch, transformers and what else a run takes
_KEPT = 1.1  # what the C library holds of memory that was given back
_NAMED = 4  # stages that a line names, at most
WORDS = {
    "open": "opening",
    "calibration": "writing its own text",
    "tokens": "tokens to train on",
    "observe": "observing",
    "search": "search",
    "held_out_loss": "held-out loss",
    "measure": "perplexity",
    "generation": "generation",
    "tasks": "tasks",
    "samples": "samples",
    "pairs": "pairs",
    "training": "training",
    "repair": "repair",
    "teacher": "the teacher's answers",
    "healing": "healing",
    "write": "saving and proof",
    "page": "page",
}


def estimated(
    stages: Sequence[Stage],
    rates: Rates,
    *,
    command: str,
    model: str,
    what: str,
    layers: int,
    layers_after: int,
    tokens: int,
    machine: str,
    assumed: Sequence[str] = (),
    base: float = BASE_BYTES,
    bound: float = math.inf,
) -> Estimate:
    """base: bytes of the process without models. bound: of its resident memory, where layers lie on disk."""
    found, kept = list[StageEstimate](), 0.0
    for stage in stages:
        kept += stage.keeps
        found.append(
            StageEstimate(
                name=stage.name,
                seconds=round(rates.seconds(stage.work), 3),
                memory_bytes=round(min(bound, base + stage.models + _KEPT * stage.memory)),
                disk_bytes=round(kept + stage.disk),
            )
        )
    return Estimate(
        command=command,
        model=model,
        what=what,
        layers=layers,
        layers_after=layers_after,
        tokens=tokens,
        seconds=round(sum(stage.seconds for stage in found), 3),
        memory_bytes=max(stage.memory_bytes for stage in found),
        disk_bytes=max(stage.disk_bytes for stage in found),
        kept_bytes=round(kept),
        stages=found,
        machine=machine,
        assumed=[*assumed],
    )


def lines(estimate: Estimate) -> list[str]:
    """What will be done, how long it takes, what memory and disk it needs."""
    longest = sorted(estimate.by_stage().items(), key=lambda one: -one[1])[:_NAMED]
    where = ", ".join(f"{WORDS.get(name, name)} {words.seconds(seconds)}" for name, seconds in longest)
    said = f"; {'; '.join(estimate.assumed)}" if estimate.assumed else ""
    return [
        f"{estimate.command}: {estimate.what}",
        f"estimate: about {words.seconds(estimate.seconds)} ({where}) by {estimate.machine}{said}",
        f"estimate: memory up to {words.megabytes(estimate.memory_bytes)}, disk up to "
        f"{words.megabytes(estimate.disk_bytes)}, of which {words.megabytes(estimate.kept_bytes)} stay",
    ]


def against(estimate: Estimate, seconds: float, memory: float) -> str:
    """The last line: what it took."""
    return (
        f"took {words.seconds(seconds)}, estimated {words.seconds(estimate.seconds)} "
        f"({words.ratio(seconds / max(estimate.seconds, 1e-9))}); memory {words.megabytes(memory)}, estimated "
        f"{words.megabytes(estimate.memory_bytes)}"
    )
