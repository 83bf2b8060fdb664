"""The path of `heal`: two models, the tokens to train on, the training, and what it bought."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lowrise.errors import RecipeError
from lowrise.files import claimed
from lowrise.heal.processes import begin_logs, check_device, check_loggers, start
from lowrise.inputs import check_healing_files, inputs_of
from lowrise.measure.tasks import NO_TASKS, load_tasks
from lowrise.model.custom import refuse_network
from lowrise.model.source import OpenModel, layers_of
from lowrise.pipeline.context import Run
from lowrise.pipeline.estimating import check_shallower, foretell, tell_against
from lowrise.pipeline.evaluating import check_tasks
from lowrise.pipeline.healed_output import Cut, dense_of, with_kept_weights, write_healed
from lowrise.pipeline.healing_steps import (
    Models,
    check_vocabularies,
    fits_both,
    tokens_to_train_on,
    train_student,
    what_trains,
)
from lowrise.pipeline.measuring import measure_model, perplexities
from lowrise.pipeline.opening import check_same_tokens, evaluation_texts, open_from, tell_notes
from lowrise.pipeline.work import begin_work, going_on
from lowrise.plan import Plan, read_plan
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.results import Results
from lowrise.settings import Heal

if TYPE_CHECKING:
    from accelerate import Accelerator


_LEARNING = 12  # bytes of a weight that trains: its gradient and Adam's two moments


def heal(
    recipe: Recipe, out: Path, force: bool, progress: Reporter, fresh: bool = False, cut: Cut | None = None
) -> Results | None:
    """Train the shallow model that `recipe.model` names to be the dense one again, measure both, write what is kept.

    cut: what made the shallow model, in the same command. None in all processes but the first. Raises InputError,
    before weights are read, for a model of another tokenizer, a student as deep as the dense model, and texts or
    loggers that cannot be used.
    """
    settings = _settings(recipe)
    recipe = recipe.model_copy(update={"heal": settings})
    check_healing(settings, recipe.device)
    dense = dense_of(recipe, cut)
    check_same_tokens(recipe, dense)
    _check_depths(recipe, dense)
    accelerator = start(settings, recipe.device)
    if recipe.device == "auto":
        recipe = recipe.model_copy(update={"device": str(accelerator.device)})
    first = accelerator.is_main_process
    with claimed(out, force, inputs_of(recipe)) if first else nullcontext(False) as alone:
        run = Run(recipe, progress, "heal", out, force, alone, fresh)
        with going_on(run):
            return _heal(run, settings, accelerator, cut)


def check_healing(settings: Heal, device: str) -> None:
    """Raises InputError for loggers that cannot be had, files that are none, a number format that a processor lacks and
    several devices: what is known before a model is.
    """
    check_device(settings, device)
    check_loggers(settings.report_to)
    check_healing_files(settings)


def _settings(recipe: Recipe) -> Heal:
    settings = recipe.heal or Heal()
    if recipe.model is None or settings.dense is None:
        place = "MODEL" if recipe.model is None else "--dense"
        raise RecipeError(place, "a hub id, a folder or a .gguf file", "none", "name one")
    return settings


def _check_depths(recipe: Recipe, dense: Recipe) -> None:
    ours, theirs = (
        layers_of(str(one.model), trust_remote_code=one.trust_remote_code, allow_pickle=one.allow_pickle)
        for one in (recipe, dense)
    )
    check_shallower(recipe.model, ours, str(dense.model), theirs)


def _heal(run: Run, settings: Heal, accelerator: Accelerator, cut: Cut | None) -> Results | None:
    recipe, progress, first = run.recipe, run.progress, accelerator.is_main_process
    begin_logs(accelerator, settings)
    with progress.stage("tasks"):
        tasks = load_tasks(recipe.tasks, recipe.task_dir, recipe.limit, recipe.fewshot, progress) if first else NO_TASKS
    models = _open(run, cut)
    student, dense = models.student, models.dense
    begin_work(run, student, dense=dense)
    check_tasks(tasks, dense, recipe.bos)
    texts = evaluation_texts(recipe, dense)
    if first:
        foretell(run, dense, student=student, texts=texts)
    trains = what_trains(run, settings, models)
    trains.ready(student)
    learning = sum(parameter.numel() for parameter in student.model.parameters() if parameter.requires_grad)
    dense.decoder.store.check_room(_LEARNING * learning, "what the student's training takes")
    made = tokens_to_train_on(run, settings, accelerator, models)
    texts = texts or made.unseen
    measured = measure_model(run, dense.decoder, dense, texts, tasks) if first else None
    before = perplexities(run, student, texts) if first else {}
    done, healing = train_student(run, settings, accelerator, models, trains, made, before)
    if measured is None:
        return None
    student.decoder.release()
    dense.decoder.release()
    results = write_healed(run, with_kept_weights(run, done, trains.ready), models, texts, measured, healing, cut)
    tell_against(run)
    return results


def _open(run: Run, cut: Cut | None) -> Models:
    with run.clock.stage("open"):
        # what is trained is in memory, with its gradients; a bound is of the dense model beside it
        student = open_from(run.recipe.model_copy(update={"memory": None}), run)
        dense = open_from(dense_of(run.recipe, cut), run)
    check_vocabularies(student, dense)
    refuse_network(dense.decoder)
    for opened in (student, dense):
        tell_notes(opened, run.progress)
    return Models(student, dense, plan_beside(student, dense), student.decoder.dtype)


def plan_beside(student: OpenModel, dense: OpenModel) -> Plan | None:
    """Of the cut, where it lies beside the shallow model and is of these two."""
    file = None if student.place is None else student.place / "lowrise" / "plan.json"
    if file is None or not file.is_file():
        return None
    plan = read_plan(file)
    return plan if fits_both(plan, student, dense) else None
