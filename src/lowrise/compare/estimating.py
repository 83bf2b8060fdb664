"""What a comparison will take: preparing, the dense model once, and every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lowrise.compare.folder import tokens_file
from lowrise.cost import healing as healing_stages
from lowrise.cost import stages as command_stages
from lowrise.cost.asked import Asked
from lowrise.cost.total import estimated
from lowrise.cost.work import Stage, Work
from lowrise.pipeline.estimating import Known, known_of_source
from lowrise.recipe import Recipe
from lowrise.results import Estimate

BEGIN = 8.0  # seconds until a process has imported what it needs
PREPARING, DENSE = "preparing", "the dense model"


def dry_run(recipes: Sequence[Recipe], keep: bool) -> Estimate:
    """Nothing is written, and no weight is read. Raises InputError for what can be refused so far."""
    return estimate_rows(recipes, known_of_source("compare", healed_first(recipes)), keep)


def healed_first(recipes: Sequence[Recipe]) -> Recipe:
    """The recipe that says what is timed: one that is healed, where any is."""
    return next((one for one in recipes if one.heal is not None), recipes[0])


def estimate_rows(recipes: Sequence[Recipe], known: Known, keep: bool) -> Estimate:
    """The stages are its steps, by title. A healing that several rows share learns of answers that are stored once."""
    assumed: list[str] = []
    prepared = [_beside(command_stages.opened(known.shape), known)]
    made: set[str] = set()
    rows, tokens = list[Stage](), 0
    for recipe in recipes:
        asked = Asked(recipe, known.shape, known.tokenizer, known.batch, assumed)
        job = asked.job()
        tokens = max(tokens, job.tokens)
        file = str(tokens_file(Path(), recipe))
        if file not in made:
            made.add(file)
            prepared.append(_beside(command_stages.calibration(job), known))
        if not rows:
            dense = command_stages.dense_alone(job)
        parts = command_stages.row(job)
        if recipe.heal is not None:
            parts += healing_stages.stages(asked.healing(job.after, 0.0, precision=known.timed.healed_in))
        rows.append(_step(f"{recipe.preset} at {recipe.remove}", parts, keep))
    whole = [_step(PREPARING, prepared, False), _step(DENSE, dense, False), *rows]
    removed = sorted({Asked(one, known.shape).job(texts=()).removed for one in recipes})
    names = list(dict.fromkeys(recipe.preset for recipe in recipes))
    layers = known.shape.layers
    return estimated(
        whole,
        known.timed.rates,
        command="compare",
        model=known.shape.name,
        what=f"{known.shape.name}, {layers} layers, {', '.join(map(str, removed))} of them gone, "
        f"by {', '.join(names)}: {len(recipes)} rows on {tokens:,} tokens",
        layers=layers,
        layers_after=layers - removed[-1],
        tokens=tokens,
        machine=known.timed.said,
        assumed=list(dict.fromkeys(assumed)),
        base=known.base,
        bound=known.bound,
    )


def _beside(stage: Stage, known: Known) -> Stage:
    return replace(stage, models=known.shape.bytes)


def _step(name: str, stages: Sequence[Stage], keep: bool) -> Stage:
    """A process of its own: what its stages take in all, and at most. keep: what it writes stays."""
    work = sum((stage.work for stage in stages), Work(fixed=BEGIN))
    kept, most = 0.0, 0.0
    for stage in stages:
        kept += stage.keeps
        most = max(most, kept + stage.disk)
    memory = max(stage.models + stage.memory for stage in stages)
    return Stage(name, work, memory=memory, disk=most - kept if keep else most, keeps=kept if keep else 0.0)
