"""What a model weighs and does, beside the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from lowrise.api import stages
from lowrise.api.calibrating import Paths, paths
from lowrise.api.dense import as_opened, check_same_tokens
from lowrise.api.models import Model
from lowrise.api.models import open as open_source
from lowrise.api.progress import Progress, reporting
from lowrise.errors import ModelError, RecipeError, TaskError, TextError
from lowrise.measure.tasks import NO_TASKS, TaskSet
from lowrise.model.cache import layer_caches
from lowrise.pipeline.building import came_of_edits
from lowrise.pipeline.context import Run
from lowrise.pipeline.drafting import tried_as_draft
from lowrise.pipeline.measuring import Measured, make_results, tell_collapse, with_speed
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.results import MeasuredModel, Results
from lowrise.settings import Bos

Dense = Model | Results | str | Path | None


class MeasuredResults(Results):
    """Results that keep the answers to each item, so that another model can be compared with them."""

    _measured: Measured | None = PrivateAttr(default=None)


def measure(
    model: Model | str | Path,
    dense: Dense = None,
    text: Paths = (),
    tasks: Sequence[str] | str = (),
    *,
    length: int = 2048,
    windows: int | None = None,
    bos: Bos = "auto",
    task_dir: str | Path | None = None,
    limit: int | None = None,
    fewshot: int | None = None,
    speed: bool = False,
    draft_for: Model | str | Path | None = None,
    progress: Progress = None,
) -> Results:
    """Layers, parameters, bytes, perplexity, generation and tasks of a model, and what it kept of the dense one's.

    model: one in memory, or a source, which is opened. dense: likewise, or the results of an earlier `measure` of it.
    A dense model to which a plan was applied since (`apply` works in place) is opened again from its source; one that
    was wrapped cannot be: measure it before you apply, and give these results. text: files to measure perplexity on,
    in windows of `length` tokens (capped by the model), the first `windows` of each. tasks: of lm-eval, or of
    `task_dir`; the first `limit` items of each, `fewshot` examples in front. speed: time generation too, both models in
    memory. draft_for: a dense model that `model` is tried for as a draft (transformers' assisted generation, greedy).
    Nothing is measured twice: results are kept by the hash of the model and of the data.

    Perplexity is exp of the mean next-token loss (natural log); `bytes` those of the weights in the format that they
    are saved in. What does not exist is None, with a reason.
    Raises TextError, TaskError or ModelError, one line, for what cannot be measured or compared.

    >>> model = lowrise.open("org/name")
    >>> before = lowrise.measure(model, text=["b.txt"], length=16)
    >>> small = lowrise.apply(model, lowrise.plan(model, layers=[1, 2]))
    >>> results = lowrise.measure(small, dense=before, text=["b.txt"], length=16)
    >>> results.layers, results.dense.layers
    (4, 6)
    >>> list(results.perplexity_ratio)
    ['b.txt']
    """
    names = [tasks] if isinstance(tasks, str) else [*tasks]
    settings = {"eval_text": paths(text), "tasks": names, "length": length, "windows": windows, "bos": bos}
    settings |= {"task_dir": None if task_dir is None else str(task_dir), "limit": limit, "fewshot": fewshot}
    recipe = build_recipe({**settings, "speed": speed})
    _check_dense(dense, speed)
    if draft_for is not None:
        _check_dense(draft_for, speed, "draft_for")
    if (names or recipe.eval_text) and dense is not None and not isinstance(dense, Results):
        check_same_tokens(model, dense)  # results say it by their numbers of tokens
    if draft_for is not None:
        check_same_tokens(model, draft_for, "draft_for")
    subject = model if isinstance(model, Model) else open_source(model, progress=progress)
    if speed:
        layer_caches(subject.opened.decoder)  # refuses a model that cannot be timed
    with reporting(progress, "measure") as reporter:
        run = Run(recipe, reporter, "measure")
        loaded = stages.loaded_tasks(recipe, reporter)
        reference = dense if isinstance(dense, Results) else _dense_model(dense, subject, progress)
        if isinstance(reference, Model):
            before: Measured | None = _measured(reference, run, loaded, None)
        else:
            before = reference._measured if isinstance(reference, MeasuredResults) else None
        after = _measured(subject, run, loaded, before)
        if isinstance(reference, Results):
            before = _earlier(reference, after)
        results = make_results(subject.source, after, before, run.clock)
        if speed:
            other = reference.opened.decoder if isinstance(reference, Model) else None
            results = with_speed(run, results, subject.opened.decoder, other)
        scores = {} if subject.plan is None else subject.plan.scores
        tell_collapse(results.but(healing=subject.healing), scores, reporter)
        drafted_for = reference if draft_for is dense else _dense_model(draft_for, subject, progress)
        if isinstance(drafted_for, Model):
            with subject.at_work() as draft, drafted_for.at_work() as other_model:
                results = tried_as_draft(run, results, draft, other_model, drafted_for.source)
    made = MeasuredResults(**{**results.given(), **_of_edits(subject, reporter)})
    made._measured = after
    return made


def _measured(model: Model, run: Run, tasks: TaskSet, dense: Measured | None) -> Measured:
    with model.at_work() as opened:
        return stages.measured(run, opened, tasks, dense)


def _of_edits(model: Model, reporter: Reporter) -> dict[str, Any]:
    """What `run` notes of the edits and the healing, too."""
    found = {name: value for name, value in came_of_edits(model.curves, model.fits).items() if value}
    found |= {} if model.healing is None else {"healing": model.healing}
    warnings = [*model.warnings, *reporter.warnings]
    return {**found, "warnings": warnings} if warnings else found


def _check_dense(dense: Dense, speed: bool, name: str = "dense") -> None:
    """Raises ModelError for a dense model that is none any more, RecipeError for results where models are timed."""
    if isinstance(dense, Model) and dense.edited and dense.wrapped:
        found = "one that a plan was applied to, in place"
        remedy = "measure it before lowrise.apply, and give these results as dense"
        raise ModelError(f"{name}, {dense.source}", "the dense model", found, remedy)
    if isinstance(dense, Results) and speed:
        raise RecipeError("speed", "a dense model, to be timed in turn", "results", "give the model or its source")


def _dense_model(dense: Model | str | Path | None, model: Model, progress: Progress) -> Model | None:
    if isinstance(dense, Model):
        return open_source(**as_opened(dense), progress=progress) if dense.edited else dense
    if dense is None:
        return None
    how = {} if model.wrapped else as_opened(model)
    return open_source(**{**how, "source": dense}, progress=progress)


def _earlier(dense: Results, after: Measured) -> Measured:
    """What was measured of the dense model, as far as it is the same that was measured of the other one now.

    Raises TextError or TaskError for texts or tasks that it was not measured on.
    """
    remedy = "measure the dense model on the same, or give the model itself"
    for name, value in after.summary.perplexity.items():
        other = dense.perplexity.get(name)
        if other is None or (other.tokens, other.length, other.bos) != (value.tokens, value.length, value.bos):
            expected = f"results on {name}, {value.tokens:,} tokens in windows of {value.length}"
            found = "none" if other is None else f"{other.tokens:,} tokens in windows of {other.length}"
            raise TextError("dense", expected, found, remedy)
    kept = dense._measured if isinstance(dense, MeasuredResults) else None
    if after.tasks and (kept is None or not _hashes(after.tasks).items() <= _hashes(kept.tasks).items()):
        found = "results of other tasks" if kept is not None else "results without the answers to each item"
        raise TaskError("dense", f"results on {', '.join(after.tasks.leaves)}", found, remedy)
    own = {name: value for name, value in dense.given().items() if name in MeasuredModel.model_fields}
    own.pop("model", None)
    return replace(kept, samples={}) if kept is not None else Measured(MeasuredModel(**own), NO_TASKS, {}, {})


def _hashes(tasks: TaskSet) -> dict[str, str]:
    return {leaf.name: leaf.sha256 for leaves in tasks.leaves.values() for leaf in leaves}
