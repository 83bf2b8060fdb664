"""The stages of the pipeline as the API calls them: the one place that knows their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lowrise.api.progress import Progress, reporting
from lowrise.calibration import Windows
from lowrise.edit.fit import Fit
from lowrise.files import claimed, output_folder, writing
from lowrise.measure.tasks import TaskSet, load_tasks
from lowrise.methods import method
from lowrise.model.checkpoint import save_and_keep, save_and_prove
from lowrise.model.source import OpenModel
from lowrise.pipeline.building import edit_model
from lowrise.pipeline.context import Run
from lowrise.pipeline.evaluating import check_tasks
from lowrise.pipeline.healing import plan_beside
from lowrise.pipeline.healing_in_place import check_models, heal_in_place
from lowrise.pipeline.healing_steps import Models, fits_both
from lowrise.pipeline.measuring import Measured, measure_model
from lowrise.pipeline.opening import (
    calibrate,
    evaluation_texts,
    layers_to_take_out,
    open_from,
    tell_notes,
    windows_or_sentences,
    windows_to_fit,
)
from lowrise.pipeline.planning import held_out_loss_of, plan_edits
from lowrise.plan import Plan
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.results import Curve, Healing


def opened_from(recipe: Recipe, reporter: Reporter) -> OpenModel:
    with reporter.stage("open"):
        opened = open_from(recipe)
    tell_notes(opened, reporter)
    return opened


def calibrated(recipe: Recipe, opened: OpenModel, reporter: Reporter) -> Windows:
    return calibrate(Run(recipe, reporter), opened)


def looks_at_sentences(recipe: Recipe) -> bool:
    return method("criterion", recipe.select).looks_at == "sentences"


def planned(recipe: Recipe, opened: OpenModel, windows: Windows | None, reporter: Reporter) -> Plan:
    """windows: None where they are made as the recipe says. Where sentences are looked at they are fitted on alone."""
    run = Run(recipe, reporter, "plan")
    k = layers_to_take_out(run, opened)
    if windows is None or looks_at_sentences(recipe):
        looked_at = windows_or_sentences(run, opened)
        fitted_on = windows or windows_to_fit(run, opened, looked_at)
    else:
        looked_at = fitted_on = windows
    return plan_edits(run, opened, k, looked_at, fitted_on)[0]


def edited(
    plan: Plan, opened: OpenModel, windows: Windows | None, recipe: Recipe, reporter: Reporter
) -> tuple[Plan, list[Curve], list[Fit]]:
    """In place. The plan with what the edits did to the loss, if there are windows to measure it on."""
    run = Run(recipe, reporter, "apply")
    held_out_loss = None if windows is None else held_out_loss_of(run, plan, opened, windows)
    curves, fits = edit_model(run, plan, opened, windows)
    if held_out_loss is not None:
        plan = held_out_loss.noted(plan, opened.decoder)
    return plan, curves, fits


def loaded_tasks(recipe: Recipe, reporter: Reporter) -> TaskSet:
    with reporter.stage("tasks"):
        return load_tasks(recipe.tasks, recipe.task_dir, recipe.limit, recipe.fewshot, reporter)


def measured(run: Run, opened: OpenModel, tasks: TaskSet, dense: Measured | None) -> Measured:
    """dense: what it is compared with, if that was measured before."""
    texts = evaluation_texts(run.recipe, opened)
    check_tasks(tasks, opened, run.recipe.bos)
    return measure_model(run, opened.decoder, opened, texts, tasks, writes=False, dense=dense)


def models_of(student: OpenModel, dense: OpenModel, plan: Plan | None, *, stays: bool) -> Models:
    """plan: that was applied to the student. stays: whether the dense model is of use after."""
    if plan is None or not fits_both(plan, student, dense):
        plan = plan_beside(student, dense)
    return Models(student, dense, plan, student.decoder.dtype, dense_stays=stays)


def healed(recipe: Recipe, models: Models, reporter: Reporter) -> Healing:
    """In place."""
    settings = recipe.heal
    assert settings is not None
    check_models(models)
    return heal_in_place(Run(recipe, reporter, "heal"), settings, models)


def saved(
    opened: OpenModel, records: Mapping[str, str], out: Path, force: bool, dense: float, progress: Progress
) -> None:
    """The folder, with the records in it (JSON, by name), and proven. `opened` is what was read back, or, if it came
    from no file, itself.

    dense: as of `save_and_keep`.
    """
    inputs = [] if opened.place is None else [opened.place]
    with reporting(progress, "save") as reporter, claimed(out, force, inputs), output_folder(out, force) as folder:
        with reporter.stage("write"):
            if opened.place is None:
                save_and_keep(opened, folder, out=out, dense=dense)
            else:
                opened.decoder = save_and_prove(opened, folder, out=out, compute=opened.decoder.dtype)
        if records:
            with writing(out):
                (folder / "lowrise").mkdir()
                for name, text in records.items():
                    (folder / "lowrise" / f"{name}.json").write_text(text, encoding="utf-8")
