"""The path of `heal`: two models, the tokens to train on, the training, and what it bought."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
import yaml

from lowrise.calibration import Windows, check_known
from lowrise.errors import ModelError, RecipeError, TextError
from lowrise.files import claimed, output_folder, writing
from lowrise.heal import defaults
from lowrise.heal.data import training_tokens
from lowrise.heal.objective import StudentLoss
from lowrise.heal.processes import check_loggers, of_the_first, start
from lowrise.heal.standing import Standing
from lowrise.heal.stored import kept_tokens
from lowrise.heal.targets import TARGETS
from lowrise.heal.teacher import Resident, Stored, Teacher
from lowrise.heal.tokens import TrainingTokens
from lowrise.heal.trainable import prepare, samples
from lowrise.heal.training import TrainingPlan, all_but, train
from lowrise.inputs import inputs_of
from lowrise.measure.cache import cache_folder, digest
from lowrise.measure.system import peak_memory
from lowrise.measure.tasks import NO_TASKS, load_tasks
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.custom import refuse_network
from lowrise.model.inherited import inherited_metadata
from lowrise.model.source import OpenModel, layers_of
from lowrise.pipeline.context import Run
from lowrise.pipeline.evaluating import check_tasks
from lowrise.pipeline.measuring import Measured, make_results, measure_model, tell_collapse
from lowrise.pipeline.opening import check_same_tokens, evaluation_texts, open_from, tell_notes
from lowrise.pipeline.work import begin_work, going_on
from lowrise.plan import Plan, read_plan
from lowrise.progress import Reporter
from lowrise.reading import kind_of
from lowrise.recipe import Recipe
from lowrise.report import words
from lowrise.report.folder import Contents, read_folder
from lowrise.report.healing import healing_charts, sentences
from lowrise.report.page import build_report
from lowrise.report.static_charts import write_svg
from lowrise.results import Healing, Results
from lowrise.settings import Heal, TeacherPlace

if TYPE_CHECKING:
    from accelerate import Accelerator

_ROOM = 0.8  # of the memory that is free, for both models and the training's state
_BYTES = 16  # of a parameter that trains: itself, gradient and two moments, float32


@dataclass(frozen=True)
class Cut:
    """The first half of a command that cuts and heals: `recipe`, of both halves, and the `command`."""

    recipe: Recipe
    command: Literal["run", "apply"]


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
    check_healing(settings)
    assert settings.dense is not None
    check_same_tokens(recipe, settings.dense)
    _check_depths(recipe, settings.dense)
    accelerator = start(settings, recipe.device)
    if recipe.device == "auto":
        recipe = recipe.model_copy(update={"device": str(accelerator.device)})
    first = accelerator.is_main_process
    with claimed(out, force, inputs_of(recipe)) if first else nullcontext(False) as alone:
        run = Run(recipe, progress, "heal", out, force, alone, fresh)
        with going_on(run):
            return _heal(run, settings, accelerator, cut)


def check_healing(settings: Heal) -> None:
    """Raises InputError for loggers that cannot be had, and files that are none: what is known before a model is."""
    check_loggers(settings.report_to)
    files = [("--guard", settings.guard), *(("--chat", path) for path in settings.chat)]
    for option, path in files:
        if path is not None and (kind := kind_of(path, TextError, "a text file", "check the path")) != "file":
            raise TextError(f"{option} {path}", "a file", kind or "nothing there", "check the path")


def _settings(recipe: Recipe) -> Heal:
    settings = recipe.heal or Heal()
    if recipe.model is None or settings.dense is None:
        place = "MODEL" if recipe.model is None else "--dense"
        raise RecipeError(place, "a hub id, a folder or a .gguf file", "none", "name one")
    return settings


def _check_depths(recipe: Recipe, dense: str) -> None:
    how = {"trust_remote_code": recipe.trust_remote_code, "allow_pickle": recipe.allow_pickle}
    ours, theirs = (layers_of(str(source), **how) for source in (recipe.model, dense))
    if ours >= theirs:
        expected = f"a model of fewer layers than {dense}, which has {theirs}"
        raise ModelError(recipe.model, expected, f"{ours}", "name the shallow model first, the dense one by --dense")


@dataclass(frozen=True)
class _Models:
    """student, dense: as they were opened. plan: of the cut, if it is known. compute: what the student computes in."""

    student: OpenModel
    dense: OpenModel
    plan: Plan | None
    compute: torch.dtype


def _heal(run: Run, settings: Heal, accelerator: Accelerator, cut: Cut | None) -> Results | None:
    recipe, progress, clock, first = run.recipe, run.progress, run.clock, accelerator.is_main_process
    with progress.stage("tasks"):
        tasks = load_tasks(recipe.tasks, recipe.task_dir, recipe.limit, recipe.fewshot, progress) if first else NO_TASKS
    models = _open(run, settings)
    student, dense = models.student, models.dense
    begin_work(run, student, dense=dense)
    check_tasks(tasks, dense, recipe.bos)
    texts = evaluation_texts(recipe, dense)
    trains = defaults.trained(settings, student.decoder.parameters())
    known = samples(dense.decoder) if trains == "gaps" and models.plan is None else []

    def ready(opened: OpenModel) -> Callable[[], None]:
        return prepare(opened.decoder, trains, settings, recipe.seed, models.plan, known)

    ready(student)

    def make() -> TrainingTokens:
        return training_tokens(dense, settings, recipe, progress)

    with clock.stage("tokens"):
        made = of_the_first(accelerator, kept_tokens(run.work, make, progress) if first else None)
    assert made is not None
    check_known(made.ids, student.decoder, settings.dense or "")
    texts = texts or {**made.held_out, made.guard[0]: made.guard[1]}
    measured = [measure_model(run, one.decoder, one, texts, tasks) for one in (dense, student)] if first else []
    student.decoder.model.float()  # small steps are lost in weights of 16 bits
    teacher, about = _teacher(run, settings, accelerator, models, made)
    rate = defaults.learning_rate(settings, trains, student.decoder.parameters())
    batch = defaults.batch_windows(settings, made.ids.shape[1], len(made.ids))
    schedule, rates = defaults.schedule_of(len(made.ids), batch, rate)
    training = TrainingPlan(schedule, rates, student.decoder.batch_tokens, *defaults.evaluations(made, schedule.steps))
    learning = sum(one.numel() for one in student.model.parameters() if one.requires_grad)
    progress.say(
        f"healing: {trains} ({words.short_count(learning)} parameters), {settings.objective}, "
        f"{made.ids.numel():,} tokens in {schedule.steps:,} steps, learning rate {rate:.2g}"
    )
    if settings.report_to:
        accelerator.init_trackers("lowrise", config={**settings.model_dump(mode="json"), "learning_rate": rate})
    loss = StudentLoss(student.decoder, defaults.goal_of(settings), settings.checkpointing)
    with clock.stage("healing"):
        done = train(loss, teacher, made, training, accelerator, progress, run.work)
    accelerator.end_training()
    accelerator.free_memory()  # it holds what was prepared: weights, gradients and moments
    if not first:
        return None
    healing = Healing(
        objective=settings.objective,
        mix=settings.mix if settings.objective == "mix" else None,
        temperature=settings.temperature,
        trained=trains,
        rank=settings.rank if trains == "lora" else None,
        parameters=learning,
        **about,
        tokens=done.tokens,
        steps=done.step,
        batch_tokens=batch * made.ids.shape[1],
        length=made.ids.shape[1],
        learning_rate=rate,
        precision=accelerator.mixed_precision,
        processes=accelerator.num_processes,
        seconds=round(done.seconds, 3),
        tokens_per_second=round(done.tokens / max(done.seconds, 1e-9), 1),
        train=done.losses,
        held_out=done.guarding.points,
        guard=done.guarding.guard,
        kept=done.guarding.best_tokens,
        before=measured[1].summary.perplexity,
        after={},
        stopped=done.stopped,
    )
    del loss, teacher
    student.decoder.release()
    dense.decoder.release()
    return _write(run, _kept(run, done, ready), models, texts, measured[0], healing, cut)


def _open(run: Run, settings: Heal) -> _Models:
    with run.clock.stage("open"):
        student = open_from(run.recipe)
        dense = open_from(run.recipe.model_copy(update={"model": settings.dense}))
    for opened in (student, dense):
        refuse_network(opened.decoder)
        tell_notes(opened, run.progress)
    return _Models(student, dense, _plan_of(student, dense), student.decoder.dtype)


def _teacher(
    run: Run, settings: Heal, accelerator: Accelerator, models: _Models, made: TrainingTokens
) -> tuple[Teacher | None, dict[str, Any]]:
    """Who says what the dense model would, and what results say of it. A dense model that is not asked while the
    student trains is given up.
    """
    if defaults.goal_of(settings).kl == 0:
        models.dense.decoder.release()
        return None, {"teacher": None}
    place = settings.teacher if settings.teacher != "auto" else _usual_place(models)
    resident = Resident(models.dense.decoder, settings.temperature)
    if place == "resident":
        return resident, {"teacher": place}
    counted = made.counted if made.counted is not None else all_but(made.prefix, made.ids)
    about = {
        "what": "targets",
        "model": models.dense.record.sha256,
        "dtype": str(models.dense.decoder.dtype),
        "temperature": settings.temperature,
        "tokens": digest([tuple(made.ids.shape), made.ids.flatten().tolist(), counted.flatten().tolist()]),
    }
    stored = Stored(cache_folder() / TARGETS / digest(about)[:16], counted[:, 1:].sum(1), made.ids.shape[1])
    if accelerator.is_main_process:
        kept = "kept from before" if not stored.missing() else f"in {stored.folder}"
        run.progress.say(f"what the dense model says of the tokens takes {words.megabytes(stored.bytes)}, {kept}")
        with run.clock.stage("teacher"):
            stored.make(resident, made.ids, counted, run.progress)
    accelerator.wait_for_everyone()
    models.dense.decoder.release()
    return stored, {"teacher": place, "teacher_bytes": stored.bytes}


def _usual_place(models: _Models) -> TeacherPlace:
    """In memory, where what training takes fits beside both models: asking the dense model costs a quarter of the time,
    but no disk, and a token is seen a few times at most.
    """
    device = models.student.decoder.device
    learning = sum(one.numel() for one in models.student.model.parameters() if one.requires_grad)
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    return "resident" if _BYTES * learning <= _ROOM * free else "stored"


def _kept(run: Run, done: Standing, ready: Callable[[OpenModel], Callable[[], None]]) -> OpenModel:
    """The shallow model, opened anew, with the weights that are to be kept. ready: as of `prepare`."""
    with run.clock.stage("open"):
        student = open_from(run.recipe)
    if not done.best:
        worse = f"{done.guarding.guard} got worse" if done.guarding.worse() else "no held-out loss got better"
        run.progress.warn(f"healing is not kept, for {worse}: these are the weights of the start")
        return student
    student.model.float()
    merge = ready(student)
    student.model.load_state_dict(done.best, strict=False)
    merge()
    return student


def _write(
    run: Run,
    student: OpenModel,
    models: _Models,
    texts: dict[str, Windows],
    dense: Measured,
    healing: Healing,
    cut: Cut | None,
) -> Results:
    before = _of_the_cut(models)
    out, clock, progress = run.place, run.clock, run.progress
    with output_folder(out, run.force) as folder:
        with clock.stage("write"):
            decoder = save_and_prove(student, folder, out=out, compute=models.compute)
        until_written = {f"{name}_until_written": value for name, value in peak_memory().items()}
        after = measure_model(run, decoder, student, texts, dense.tasks)
        healing = healing.but(after=after.summary.perplexity)
        results = make_results(str(out), after, dense, clock)
        results = results.but(
            memory=results.memory | until_written,
            command="heal" if cut is None else cut.command,
            base=inherited_metadata(student.place),
            healing=healing,
            training=[] if before is None else before.results.training,
            repairs=[] if before is None else before.results.repairs,
            warnings=progress.warnings,
            seconds=clock.total() if cut is None or before is None else _sum(before.results.seconds, clock.total()),
        )
        with writing(out):
            side = folder / "lowrise"
            side.mkdir()
            if models.plan is not None:
                (side / "plan.json").write_text(models.plan.to_json(), encoding="utf-8")
            if before is not None:
                _take_along(student, side)
            recipe = run.recipe if cut is None else cut.recipe
            (side / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False), encoding="utf-8")
            (side / "results.json").write_text(results.to_json() + "\n", encoding="utf-8")
            write_svg(healing_charts(healing), side / "healing.svg")
            for name, text in build_report(folder).items():
                (folder / name).write_text(text, encoding="utf-8")
    for sentence in sentences(healing):
        progress.say(sentence)
    tell_collapse(results, {}, progress)
    return results


def _plan_of(student: OpenModel, dense: OpenModel) -> Plan | None:
    """Of the cut, where it lies beside the shallow model and is of these two."""
    file = None if student.place is None else student.place / "lowrise" / "plan.json"
    if file is None or not file.is_file():
        return None
    plan = read_plan(file)
    fits = (plan.model.layers, plan.layers_after) == (len(dense.decoder), student.decoder.depth)
    return plan if fits else None


def _of_the_cut(models: _Models) -> Contents | None:
    """What is known of how the shallow model was made, where lowrise made it of this dense one."""
    place = models.student.place
    return None if models.plan is None or place is None else read_folder(place)


def _take_along(student: OpenModel, side: Path) -> None:
    """Files that say how the cut was chosen and what was trained in it."""
    assert student.place is not None
    for pattern in ("observation.json", "training*.json", "training*.svg"):
        for file in sorted((student.place / "lowrise").glob(pattern)):
            shutil.copyfile(file, side / file.name)


def _sum(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: round(first.get(name, 0.0) + second.get(name, 0.0), 3) for name in {**first, **second}}
