"""The path, top to bottom: recipe, model, calibration, observe, select, plan, edit, heal, measure, save.

Each command is one function here; the stages it calls are the modules beside it, in the order of the path.
"""

from __future__ import annotations

from pathlib import Path

from lowrise.calibration import Windows
from lowrise.calibration.sentences import Sentences
from lowrise.files import claimed, claimed_file, output_folder, write_file, writing
from lowrise.heap import collect
from lowrise.inputs import inputs_of
from lowrise.measure.system import versions
from lowrise.measure.tasks import NO_TASKS, load_tasks
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.observe.analysis import analyse
from lowrise.pipeline.building import apply_and_write
from lowrise.pipeline.context import Run
from lowrise.pipeline.cut_and_heal import Check, cut_and_heal
from lowrise.pipeline.drafting import with_draft
from lowrise.pipeline.estimating import foretell, foretell_anew, tell_against
from lowrise.pipeline.evaluating import check_tasks
from lowrise.pipeline.measuring import Measured, make_results, measure_model, tell_collapse, with_speed
from lowrise.pipeline.opening import (
    calibrate,
    check_same_tokens,
    evaluation_texts,
    held_out_texts,
    layers_said,
    open_for_planning,
    open_from,
    tell_notes,
    windows_or_sentences,
    windows_to_fit,
)
from lowrise.pipeline.planning import check_counts, check_plan, held_out_loss_of, plan_edits, tell_changes
from lowrise.pipeline.work import begin_work, going_on
from lowrise.plan import Plan, check_plan_field
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.report.observation import draw_observation
from lowrise.results import Analysis, Results, Seen

__all__ = ["apply", "make_plan", "measure", "observe_model", "run"]


def run(recipe: Recipe, out: Path, force: bool, progress: Reporter, fresh: bool = False) -> Results:
    """Everything: plan, edit, heal, write, and both models measured on the same windows. Returns results.json.

    What an earlier run of the same kind has kept beside `out` when it was killed is gone on with, unless `fresh`.
    """
    if recipe.heal is None:
        return _run_alone(recipe, out, force, progress, fresh)
    return cut_and_heal(
        "run", recipe, out, force, progress, fresh,
        lambda plain, place, check: _run_alone(plain, place, False, progress, fresh, check, recipe),
    )  # fmt: skip


def _run_alone(
    recipe: Recipe,
    out: Path,
    force: bool,
    progress: Reporter,
    fresh: bool,
    check: Check | None = None,
    whole: Recipe | None = None,
) -> Results:
    with claimed(out, force, inputs_of(recipe)) as alone:
        run = Run(recipe, progress, "run", out, force, alone, fresh)
        with going_on(run):
            return _run(run, check, whole)


def _run(run: Run, check: Check | None, whole: Recipe | None) -> Results:
    """check: of the model as it was opened, raises InputError. whole: the recipe with the healing that follows."""
    recipe, progress = run.recipe, run.progress
    with progress.stage("tasks"):
        tasks = load_tasks(recipe.tasks, recipe.task_dir, recipe.limit, recipe.fewshot, progress)
    opened, k = open_for_planning(run)
    tell_notes(opened, progress)
    if check is not None:
        check(opened)
    check_tasks(tasks, opened, recipe.bos)
    texts = evaluation_texts(recipe, opened)
    windows = _foretold_windows(run, opened, k, texts, whole)
    if not texts:
        texts = held_out_texts(recipe, windows)
    fitted_on = windows_to_fit(run, opened, windows)
    plan, observation, held_out_loss = plan_edits(run, opened, k, windows, fitted_on)
    foretell_anew(run, plan, texts, whole)
    dense = measure_model(run, opened.decoder, opened, texts, tasks)
    results = apply_and_write(run, plan, opened, fitted_on, texts, dense, held_out_loss, observation)
    if whole is None:
        tell_against(run)
    return results


def _foretold_windows(
    run: Run, opened: OpenModel, k: int | None, texts: dict[str, Windows] | None = None, whole: Recipe | None = None
) -> Windows | Sentences:
    """What layers are chosen on, and what the run will take. A text is refused before the estimate is said; what the
    model writes itself, which takes long, is written after. k: layers that the criterion takes out.
    """
    recipe = run.recipe
    removed = None if k is None else k - recipe.put_back
    if recipe.synthetic_share > 0 or not (recipe.text or recipe.dataset or recipe.tokens):
        foretell(run, opened, removed=removed, texts=texts, whole=whole)
        return windows_or_sentences(run, opened)
    windows = windows_or_sentences(run, opened)
    foretell(run, opened, removed=removed, texts=texts, whole=whole)
    return windows


def make_plan(
    recipe: Recipe, progress: Reporter, out: Path | None = None, force: bool = False, fresh: bool = False
) -> Plan:
    """Choose what to do to which layers; nothing is changed. out: a file that it is written to. fresh: as of `run`."""
    if out is None:
        return _make_plan(Run(recipe, progress, "plan"))
    with claimed_file(out, force, inputs_of(recipe)) as alone:
        run = Run(recipe, progress, "plan", out, force, alone, fresh)
        with going_on(run):
            plan = _make_plan(run)
            write_file(out.resolve(), plan.to_json())
            return plan


def _make_plan(run: Run) -> Plan:
    opened, k = open_for_planning(run)
    tell_notes(opened, run.progress)
    windows = _foretold_windows(run, opened, k)
    fitted_on = windows_to_fit(run, opened, windows)
    plan = plan_edits(run, opened, k, windows, fitted_on)[0]
    tell_against(run)
    return plan


def apply(plan: Plan, recipe: Recipe, out: Path, force: bool, progress: Reporter, fresh: bool = False) -> Results:
    """Do what a plan says. Calibration tokens are made only if an edit is fitted, as the plan recorded them.

    fresh: as of `run`.
    """
    if recipe.heal is None:
        return _apply_alone(plan, recipe, out, force, progress, fresh)
    return cut_and_heal(
        "apply", recipe, out, force, progress, fresh,
        lambda plain, place, check: _apply_alone(plan, plain, place, False, progress, fresh, check, recipe),
    )  # fmt: skip


def _apply_alone(
    plan: Plan,
    recipe: Recipe,
    out: Path,
    force: bool,
    progress: Reporter,
    fresh: bool,
    check: Check | None = None,
    whole: Recipe | None = None,
) -> Results:
    with claimed(out, force, inputs_of(recipe)) as alone:
        run = Run(recipe, progress, "apply", out, force, alone, fresh)
        with going_on(run):
            return _apply(run, plan, check, whole)


def _apply(run: Run, plan: Plan, check: Check | None, whole: Recipe | None) -> Results:
    """check: as of `_run`."""
    recipe, progress = run.recipe, run.progress
    layers = layers_said(recipe)
    if layers is not None:
        check_plan_field(plan, "layers", layers, str(recipe.model))  # before weights are read
    with run.clock.stage("open"):
        opened = open_from(recipe, run)
    tell_notes(opened, progress)
    if check is not None:
        check(opened)
    check_plan(plan, opened, recipe.for_engines)
    plan = tell_changes(check_counts(plan, opened.decoder), progress)
    begin_work(run, opened, plan)
    texts = evaluation_texts(recipe, opened)
    windows, held_out_loss = None, None
    foretell(run, opened, removed=plan.model.layers - plan.layers_after, texts=texts, whole=whole)
    foretell_anew(run, plan, texts, whole)
    if plan.is_fitted:
        windows = calibrate(run, opened)
        held_out_loss = held_out_loss_of(run, plan, opened, windows)
    dense = measure_model(run, opened.decoder, opened, texts, NO_TASKS)
    results = apply_and_write(run, plan, opened, windows, texts, dense, held_out_loss)
    if whole is None:
        tell_against(run)
    return results


def measure(recipe: Recipe, dense_source: str | None, progress: Reporter, draft_for: str | None = None) -> Results:
    """Size, perplexity, generation and tasks of a model, and beside them those of a dense one if it is named.

    draft_for: a model that it is tried for as a draft.
    """
    run = Run(recipe, progress, "measure")
    with progress.stage("tasks"):
        tasks = load_tasks(recipe.tasks, recipe.task_dir, recipe.limit, recipe.fewshot, progress)
    if dense_source and (tasks or recipe.eval_text):
        check_same_tokens(recipe, recipe.model_copy(update={"model": dense_source}))
    if draft_for:
        check_same_tokens(recipe, recipe.model_copy(update={"model": draft_for}), "--draft-for")
    measured: list[Measured] = []
    decoders: list[Decoder] = []
    for source in [dense_source, recipe.model] if dense_source else [recipe.model]:  # the dense one writes first
        if decoders and not recipe.speed:
            decoders[0].release()  # one model in memory at a time
            collect()
        with run.clock.stage("open"):
            opened = open_from(recipe.model_copy(update={"model": source}), run)
        tell_notes(opened, progress)
        texts = evaluation_texts(recipe, opened)
        check_tasks(tasks, opened, recipe.bos)
        dense = measured[0] if measured else None
        measured.append(measure_model(run, opened.decoder, opened, texts, tasks, writes=False, dense=dense))
        decoders.append(opened.decoder)
    results = make_results(str(recipe.model), measured[-1], measured[0] if dense_source else None, run.clock)
    if recipe.speed:
        results = with_speed(run, results, decoders[-1], decoders[0] if dense_source else None)
    if draft_for:
        results = with_draft(run, results, opened, draft_for)
    tell_collapse(results, {}, progress)
    return results


def observe_model(recipe: Recipe, out: Path, force: bool, progress: Reporter, fresh: bool = False) -> Analysis:
    """Similarity of a model's layers, by their outputs and weights: observation.json and pictures.

    fresh: as of `run`.
    """
    with claimed(out, force, inputs_of(recipe)) as alone:
        run = Run(recipe, progress, "observe", out, force, alone, fresh)
        with going_on(run):
            return _observe_model(run)


def _observe_model(run: Run) -> Analysis:
    out = run.place
    with run.clock.stage("open"):
        opened = open_from(run.recipe, run)
    tell_notes(opened, run.progress)
    begin_work(run, opened)
    windows = calibrate(run, opened)
    found = _seen(run, opened, windows)
    about = {"model": opened.record, "calibration": windows.record()}
    results = Analysis(**about, **dict(found), versions=versions(), seconds=run.clock.total())
    with output_folder(out, run.force) as folder, writing(out):
        (folder / "observation.json").write_text(results.to_json(indent=None) + "\n", encoding="utf-8")
        draw_observation(found, folder)
    return results


def _seen(run: Run, opened: OpenModel, windows: Windows) -> Seen:
    kept = run.work.find("seen")
    if kept is not None:
        return Seen.model_validate(kept.value)
    with run.clock.stage("observe"):
        found = analyse(opened.decoder, windows, run.progress)
    run.work.keep("seen", found.model_dump(), what="what was observed")
    return found
