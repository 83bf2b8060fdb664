"""docs/estimates.md: what the cost model says of models and machines that are not at hand.

    python scripts/estimates.py            writes the page
    python scripts/estimates.py --check    ends with status 1 where the page is another one

Shapes and machines are data (src/lowrise/cost/devices.py); the work is what commands do (src/lowrise/cost/stages.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from documentation.generated import asked_to_check, write_or_check

from lowrise.cost.asked import Asked
from lowrise.cost.devices import DEVICES, REACHED, SHAPES, Device
from lowrise.cost.job import Text
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import COMMANDS
from lowrise.cost.total import WORDS, estimated
from lowrise.cost.work import Stage
from lowrise.recipe import Recipe
from lowrise.report import words
from lowrise.results import Estimate

PAGE = Path(__file__).resolve().parent.parent / "docs" / "estimates.md"
COMMAND = "python scripts/estimates.py"
# What is asked: the usual number of windows, of a text; a text of 64 windows is measured.
ASKED = {
    "`refit`": Recipe(preset="refit", text=["text.txt"]),
    "`refit`, its own text": Recipe(preset="refit"),
    "`block-influence`": Recipe(preset="block-influence", text=["text.txt"]),
    "`streamline-none --repair fold`": Recipe(preset="streamline-none", repair="fold", text=["text.txt"]),
}
MEASURED = (Text(64, 2048),)


class Whole(Asked):
    """Texts that fill every window."""

    def _tokens(self, path: str) -> float:  # noqa: ARG002 - whichever it is
        return 1e12


def main() -> int:
    check = asked_to_check(__doc__, "the page")
    return write_or_check([(PAGE, page())], check, f"run `{COMMAND}`", "docs/estimates.md is as the code is")


def estimate(shape: ModelShape, device: Device, recipe: Recipe, *, streamed: bool) -> Estimate:
    """streamed: layers lie on disk, and each is read once a pass."""
    job = Whole(recipe, shape).job(texts=MEASURED)
    job = replace(job, batch=8192 if device.kind == "cuda" else 1024)
    stages = COMMANDS["run"](job)
    rates = device.rates(shape)
    if streamed:
        rates = rates.streamed(shape.layer_parameters * shape.stored)
        # two layers at a time, embeddings and head stay
        held = 2 * shape.layer_bytes + shape.rest * shape.compute
        stages = [replace(stage, models=min(stage.models, held), memory=_bounded(stage, shape)) for stage in stages]
    return estimated(
        stages,
        rates,
        command="run",
        model=shape.name,
        what="",
        layers=shape.layers,
        layers_after=job.after.layers,
        tokens=job.tokens,
        machine=device.name,
    )


def _bounded(stage: Stage, shape: ModelShape) -> float:
    """Opening and saving hold the files of two layers at a time."""
    most = 2 * shape.layer_parameters * shape.stored
    return min(stage.memory, most) if stage.name in ("open", "write") else stage.memory


def page() -> str:
    return "\n\n".join(parts()) + "\n"


def parts() -> Iterator[str]:
    yield f"<!-- generated: {COMMAND} -->"
    yield "# What a run will take"
    yield (
        "**These are estimates.** No model of this size was run for this page. They come from the count of what a run "
        "does and from what makers say of their machines, of which a layer is taken to reach "
        f"{REACHED:.0%}. Take them to know whether it is minutes or days, and whether it fits. On your own machine ask "
        "`lowrise run MODEL … --dry-run`: it times one layer there, reads no weights and writes nothing."
    )
    yield (
        "Asked is: a quarter of the layers gone, 128 windows of calibration text (512 tokens each with `refit`, 2,048 "
        f"with the others), perplexity of both models on {MEASURED[0].windows} windows of {MEASURED[0].length:,} "
        "tokens, bfloat16."
    )
    yield (
        "*resident*: the whole model fits the memory of the machine. *streamed*: `--memory`, where layers stay on disk "
        "and each is read once a pass, and once for every token that the model writes; the time holds reading them. "
        "Memory is what the run holds at most; disk is what it needs at most while it runs, the result among it."
    )
    for shape in SHAPES:
        on_disk = words.megabytes(shape.parameters * shape.stored)
        yield f"## {shape.name}"
        yield f"{shape.layers} layers, {words.short_count(shape.parameters)} parameters, {on_disk} on disk."
        yield _table(("machine", "what", "layers", "time", "most of it", "memory", "disk"), _rows(shape))
    yield "## Where the figures come from"
    head = ("machine", "16 bits", "float32", "float64", "memory", "source")
    yield _table(head, (_figures(device) for device in DEVICES))
    yield (
        "Eight GPUs hold the layers one after the other, and one of them works at a time: they bring memory, not "
        "speed. Regressions are solved in float64, which consumer GPUs do at 1/64 of their float32 rate: there search "
        "and repair of `refit` wait for it. The sums that neurons are chosen from grow with the square of the MLP's "
        "width, their solution with its cube."
    )


def _figures(device: Device) -> tuple[str, ...]:
    rates = (f"{rate / 1e12:,.3g} TFLOP/s" for rate in (device.half, device.single, device.double))
    memory = f"{words.megabytes(device.memory)}, {device.bandwidth / 1e9:,.0f} GB/s"
    return (device.name, *rates, memory, device.source)


def _rows(shape: ModelShape) -> Iterator[tuple[str, ...]]:
    for device in DEVICES:
        for name, recipe in ASKED.items():
            whole = estimate(shape, device, recipe, streamed=False)
            fits = whole.memory_bytes <= (device.memory if device.kind == "cuda" else device.host)
            found = whole if fits else estimate(shape, device, recipe, streamed=True)
            room = device.memory if device.kind == "cuda" else device.host
            memory = words.megabytes(found.memory_bytes)
            memory = memory if found.memory_bytes <= room else f"{memory}: does not fit"
            (longest, seconds), *_ = sorted(found.by_stage().items(), key=lambda one: -one[1])
            yield (
                device.name,
                name,
                "resident" if fits else "streamed",
                _time(found.seconds),
                f"{WORDS.get(longest, longest)}, {seconds / found.seconds:.0%}",
                memory,
                words.megabytes(found.disk_bytes),
            )


def _time(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds >= 2 * 86400 else words.seconds(seconds)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
