"""Say before it begins: what will be done, how long it takes, what memory and disk; and at the end, what it took."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lowrise.calibration import Windows
from lowrise.cost import healing as healing_stages
from lowrise.cost.asked import Asked
from lowrise.cost.describe import shape_and_layer, shape_of
from lowrise.cost.forecast import Forecast
from lowrise.cost.job import Job, Text
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import COMMANDS
from lowrise.cost.timing import Timed, timed
from lowrise.cost.total import BASE_BYTES, WORDS, against, estimated, lines
from lowrise.cost.work import Stage
from lowrise.errors import LowriseError, ModelError, OutputError, RecipeError, TextError
from lowrise.heal.precision import precision_of
from lowrise.measure.system import peak_memory
from lowrise.model.placement import pick_devices
from lowrise.model.source import OpenModel, describe
from lowrise.pipeline.clock import room_for
from lowrise.pipeline.context import Run
from lowrise.plan import Plan
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.report import words
from lowrise.results import Estimate
from lowrise.settings import Precision
from lowrise.sizes import said_bytes
from lowrise.store import bound_of, check_bound, least_of, stays_in_memory
from lowrise.store.process import free_memory, resident

_TOLD_ANEW = 1.25  # by what a better estimate must differ to be said


@dataclass(frozen=True)
class Known:
    """What an estimate is made from: a model's shape, how fast this machine is with it, and its tokenizer."""

    shape: ModelShape
    timed: Timed
    tokenizer: Any
    batch: int
    base: float
    bound: float = math.inf  # of resident memory, where layers lie on disk


def known_of(opened: OpenModel, command: str, recipe: Recipe, memory: str | None = None) -> Known:
    """Of a model that is open, whose own layer is timed for this command. memory: the bound that it was opened with."""
    decoder = opened.decoder
    shape = shape_of(decoder, opened.record.source, opened.save_dtype.itemsize)
    beside = resident() - (shape.bytes if decoder.device.type == "cpu" else 0)
    rates = timed(decoder, shape, healed_in(command, recipe, decoder.device))
    known = Known(shape, rates, opened.tokenizer, decoder.batch_tokens, max(0.0, beside))
    return known if memory is None or not decoder.store.layer_by_layer else on_disk(known, bound_of(memory))


def healed_in(command: str, recipe: Recipe, device: torch.device) -> Precision | None:
    """The number format that a command's healing computes in; None where nothing is healed."""
    settings = recipe.heal
    if settings is None or command == "plan":
        return None
    return precision_of(settings.precision, device)


def on_disk(known: Known, bound: float) -> Known:
    """With layers on disk, each read once a pass."""
    rates = known.timed.rates.streamed(known.shape.layer_bytes)
    return replace(known, timed=replace(known.timed, rates=rates), base=BASE_BYTES, bound=bound)


def known_of_source(command: str, recipe: Recipe, rates: Timed | None = None) -> Known:
    """Of a model that is not opened, for this command: its config, and one random layer. rates: that are known already,
    of a model of such layers.
    """
    if recipe.model is None:
        raise RecipeError("MODEL", "a hub id, a folder or a .gguf file", "none", "name one")
    device = pick_devices(recipe.device)[0]
    found = describe(
        recipe.model,
        dtype=recipe.dtype,
        trust_remote_code=recipe.trust_remote_code,
        allow_pickle=recipe.allow_pickle,
    )
    return known_of_config(command, found.config, recipe.model, found.stored, recipe, device, found.tokenizer, rates)


def known_of_config(
    command: str,
    config: Any,
    name: str,
    stored: torch.dtype,
    recipe: Recipe,
    device: torch.device,
    tokenizer: Any = None,
    rates: Timed | None = None,
) -> Known:
    """Of a config alone, by one random layer. stored: the number format that the model is saved in. rates: as of
    `known_of_source`.
    """
    compute = torch.float32 if recipe.dtype == "auto" and device.type == "cpu" else stored
    with room_for("the estimate"):
        shape, layer = shape_and_layer(config, name, compute=compute, stored=stored.itemsize, device=device)
        rates = rates or timed(layer, shape, healed_in(command, recipe, device))
    known = Known(shape, rates, tokenizer, layer.batch_tokens, BASE_BYTES)
    asked = recipe.memory
    if asked is None or device.type != "cpu" or stays_in_memory(asked, device, shape.bytes, BASE_BYTES):
        return known
    bound, table = bound_of(asked), shape.vocabulary * shape.hidden * compute.itemsize
    check_bound(asked, bound, least_of(round(max(shape.layer_bytes, table)), round(BASE_BYTES)))
    return on_disk(known, bound)


def estimate_of(
    command: str,
    recipe: Recipe,
    known: Known,
    *,
    removed: int | None = None,
    texts: Sequence[Text] | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    student: ModelShape | None = None,
) -> Estimate:
    """Of `run`, `plan` and `apply`, with the healing that the recipe asks for; of `heal`, whose model is `student`.

    removed, texts, spans: as of `Job`, where they are known already.
    """
    asked = Asked(recipe, known.shape, known.tokenizer, known.batch)
    free = float(free_memory())
    if command == "heal":
        assert student is not None and recipe.heal is not None
        found = asked.healing(student, free, texts, known.timed.healed_in)
        stages, tokens, after = healing_stages.stages(found), found.windows * found.length, student.layers
        what = (
            f"{student.name}, {after} layers, healed by {known.shape.name}, {known.shape.layers} layers, "
            f"on {tokens:,} tokens"
        )
    else:
        job = asked.job(removed, texts)
        job = job if spans is None else job.with_spans(spans)
        stages, tokens, after = COMMANDS[command](job), job.tokens, job.after.layers
        what = what_is_done(recipe, job)
        if recipe.heal is not None and command != "plan":
            after_cut = replace(job.after, name=job.shape.name)
            learned = asked.healing(after_cut, free, texts, known.timed.healed_in)
            stages = [*stages, *healing_stages.stages(learned)]
            what += f", then healed on {learned.windows * learned.length:,} tokens"
    if known.bound < math.inf:
        what += f", layers on disk, {words.megabytes(known.bound)} of memory"
        longest = max(stages, key=lambda stage: stage.memory)
        needed = known.base + 2 * known.shape.layer_bytes + longest.memory
        if needed > known.bound:
            what += f" where {WORDS.get(longest.name, longest.name)} takes about {words.megabytes(needed)}"
        stages = [replace(stage, disk=stage.disk + known.shape.bytes) for stage in stages]
    return _said(command, known, stages, what, after, tokens, asked.assumed)


def _said(
    command: str, known: Known, stages: list[Stage], what: str, after: int, tokens: int, assumed: Sequence[str]
) -> Estimate:
    return estimated(
        stages,
        known.timed.rates,
        command=command,
        model=known.shape.name,
        what=what,
        layers=known.shape.layers,
        layers_after=after,
        tokens=tokens,
        machine=known.timed.said,
        assumed=list(dict.fromkeys(assumed)),
        base=known.base,
        bound=known.bound,
    )


def what_is_done(recipe: Recipe, job: Job) -> str:
    """In words, for the first of the three lines."""
    shape = job.shape
    parts = [f"select {recipe.select}"]
    parts += [f"network {recipe.network}"] if recipe.network != "none" else []
    parts += [f"repair {recipe.repair}"] if recipe.repair != "none" else []
    own = (
        ""
        if not job.written
        else ", all written by the model"
        if job.written == job.windows
        else (f", {job.written * job.length:,} of them written by the model")
    )
    return (
        f"{shape.name} from {shape.layers} to {job.after.layers} layers by {recipe.preset} ({', '.join(parts)}) "
        f"on {job.tokens:,} tokens{own}"
    )


def dry_run(command: str, recipe: Recipe) -> Estimate:
    """What a command would take; nothing is written, and no weight is read. Raises InputError as the command would for
    what can be known so far.
    """
    return estimate_with(command, recipe, known_of_source(command, recipe))


def estimate_with(command: str, recipe: Recipe, known: Known, dense: str = "--dense") -> Estimate:
    """As `estimate_of`; of `heal` with the dense model, of which the recipe names the source. dense: where it does, for
    errors.
    """
    if command != "heal":
        return estimate_of(command, recipe, known)
    settings = recipe.heal
    if settings is None or settings.dense is None:
        raise RecipeError(dense, "a hub id, a folder or a .gguf file", "none", "name one")
    theirs = known_of_source(command, recipe.model_copy(update={"model": settings.dense}), known.timed)
    check_shallower(known.shape.name, known.shape.layers, settings.dense, theirs.shape.layers)
    return estimate_of("heal", recipe, theirs, student=known.shape)


def check_shallower(shallow: str | None, layers: int, dense: str, most: int) -> None:
    """Raises ModelError for a student as deep as the dense model."""
    if layers >= most:
        expected = f"a model of fewer layers than {dense}, which has {most}"
        raise ModelError(shallow, expected, f"{layers}", "name the shallow model first, the dense one by --dense")


# -- while a command runs -------------------------------------------------------------------------------------------


def foretell(
    run: Run,
    opened: OpenModel,
    *,
    removed: int | None = None,
    texts: dict[str, Windows] | None = None,
    student: OpenModel | None = None,
    whole: Recipe | None = None,
) -> None:
    """Say the three lines, and let the clock say what is left. whole: the recipe with the healing that follows.

    Nothing is timed where nobody reads it.
    """
    if run.progress.quiet:
        return

    def made() -> tuple[Known, Estimate]:
        known = known_of(opened, run.command, whole or run.recipe, run.recipe.memory)
        own = None if student is None else shape_of(student.decoder, student.record.source, student.save_dtype.itemsize)
        measured = None if not texts else [Text(_counted(run.recipe, one), one.length) for one in texts.values()]
        given: dict[str, Any] = {"removed": removed, "texts": measured, "student": own}
        return known, estimate_of(run.command, whole or run.recipe, known, **given)

    found = said(made, run.progress)
    if found is None:
        return
    run.known, estimate = found
    run.clock.forecast, run.progress.left = Forecast(estimate), run.clock.left
    run.progress.foretold = run.progress.foretold or estimate.seconds
    tell_memory(estimate, opened.decoder.device, run.progress)
    check_disk(estimate, run.out, opened.decoder.store.size, run.progress)


def said(make: Callable[[], tuple[Known, Estimate]], progress: Reporter) -> tuple[Known, Estimate] | None:
    """What `make` makes, its three lines said; None, with the reason, of a model of which no estimate can be made.

    Raises TextError for a text that cannot be read: the command could not do without it either.
    """
    try:
        known, estimate = make()
    except TextError:
        raise
    except (LowriseError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        progress.say(f"no estimate of this model can be made: {error}")
        return None
    for line in lines(estimate):
        progress.say(line)
    return known, estimate


def _counted(recipe: Recipe, windows: Windows) -> int:
    return len(windows) if recipe.windows is None else min(len(windows), recipe.windows)


def tell_memory(estimate: Estimate, device: torch.device, progress: Reporter) -> None:
    """A warning where it would not fit."""
    if device.type == "cpu":
        free = free_memory() + resident()
        if estimate.memory_bytes > free:
            needed = words.megabytes(estimate.memory_bytes)
            progress.warn(f"memory may not suffice: about {needed} are needed, {words.megabytes(free)} are there")


def check_disk(estimate: Estimate, out: Path | None, held: int, progress: Reporter) -> None:
    """Raises OutputError where what stays would not fit beside `out`; a warning where what lies there meanwhile would
    not. held: bytes that lie there already, of layers on disk.
    """
    places = [Path(tempfile.gettempdir())] if out is None else out.resolve().parents
    folder = next(place for place in places if place.exists())
    free = shutil.disk_usage(folder).free
    elsewhere = any(stage.name == "teacher" for stage in estimate.stages)  # some of it stays in the cache
    if out is not None and not elsewhere and estimate.kept_bytes > free:
        expected, found = f"about {said_bytes(estimate.kept_bytes)} of room for it", f"{said_bytes(free)} free"
        raise OutputError(out, expected, found, "free space, or choose another place")
    if estimate.disk_bytes > free + held:
        needed, there = words.megabytes(estimate.disk_bytes), words.megabytes(free)
        progress.warn(f"the disk may not suffice: about {needed} are needed, {there} are free in {folder}")


def foretell_anew(run: Run, plan: Plan, texts: dict[str, Windows], whole: Recipe | None = None) -> None:
    """With the layers that were chosen; said where it makes a difference. whole: as of `foretell`."""
    forecast, known = run.clock.forecast, run.known
    if forecast is None or known is None:
        return
    spans = [(edit.start, edit.stop) for edit in plan.edits]
    measured = [Text(_counted(run.recipe, one), one.length) for one in texts.values()]
    removed = plan.model.layers - plan.layers_after
    if not spans:
        return
    better = estimate_of(run.command, whole or run.recipe, known, removed=removed, texts=measured, spans=spans)
    before = forecast.estimate.seconds
    forecast.estimate = better
    if max(better.seconds, before) > _TOLD_ANEW * min(better.seconds, before):
        run.progress.say(f"estimate, now that layers are chosen: about {words.seconds(better.seconds)} in all")


def tell_against(run: Run) -> None:
    """At the end, what it took against what was estimated."""
    if run.clock.forecast is not None:
        peak = peak_memory()["peak_resident_bytes"]
        run.progress.say(against(run.clock.forecast.first, run.clock.total()["total"], peak))
        bound = run.known.bound if run.known is not None else math.inf
        if peak > bound:
            run.progress.warn(f"{words.megabytes(peak)} of memory were taken, more than --memory {run.recipe.memory}")
