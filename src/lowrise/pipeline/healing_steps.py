"""The steps of a healing that the command and the Python API share: what trains, on which tokens, and the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import psutil
import torch

from lowrise.calibration import check_known
from lowrise.errors import ModelError
from lowrise.heal import defaults
from lowrise.heal.data import training_tokens
from lowrise.heal.objective import StudentLoss
from lowrise.heal.precision import is_said
from lowrise.heal.processes import computed_in, of_the_first
from lowrise.heal.standing import Standing
from lowrise.heal.stored import kept_tokens
from lowrise.heal.targets import TARGETS
from lowrise.heal.teacher import Resident, Stored, Teacher
from lowrise.heal.tokens import TrainingTokens
from lowrise.heal.trainable import adapter_rank, prepare, samples, weight_scale
from lowrise.heal.training import TrainingPlan, all_but, train
from lowrise.heal.trial import settle_precision
from lowrise.measure.cache import cache_folder, digest
from lowrise.model.batching import free_memory
from lowrise.model.source import OpenModel
from lowrise.pipeline.clock import room_for
from lowrise.pipeline.context import Run
from lowrise.plan import Plan
from lowrise.progress import Reporter
from lowrise.report import words
from lowrise.results import Healing, Perplexity
from lowrise.settings import Heal, TeacherPlace, Trained

if TYPE_CHECKING:
    from accelerate import Accelerator

Ready = Callable[[OpenModel], Callable[[], None]]
"""Lets what is to be trained of a model ask for gradients; returns what makes a plain model of it again."""


@dataclass(frozen=True)
class Trains:
    """what: of the student. rate: the largest learning rate."""

    what: Trained
    ready: Ready
    rate: float


@dataclass(frozen=True)
class Models:
    """student, dense: as they were opened. plan: of the cut, if it is known. compute: what the student computes in.

    dense_stays: the dense model is of use to someone else, and is not given up once it is not asked any more.
    """

    student: OpenModel
    dense: OpenModel
    plan: Plan | None
    compute: torch.dtype
    dense_stays: bool = False

    def give_up_dense(self) -> None:
        if not self.dense_stays:
            self.dense.decoder.release()


def fits_both(plan: Plan, student: OpenModel, dense: OpenModel) -> bool:
    """Whether the plan is of a cut of a model as deep as the dense one, to one as deep as the student."""
    return (plan.model.layers, plan.layers_after) == (len(dense.decoder), student.decoder.depth)


def check_vocabularies(student: OpenModel, dense: OpenModel) -> None:
    """A dense model with more rows than the tokenizer has tokens gives probability to, and writes, what the student may
    not know.
    """
    ours, theirs = (one.decoder.model.get_input_embeddings().weight.shape[0] for one in (student, dense))
    if ours < theirs:
        expected = f"a model of as many tokens as {dense.decoder.where}, {theirs:,}"
        remedy = "give it that many by transformers' resize_token_embeddings"
        raise ModelError(student.decoder.where, expected, f"{ours:,}", remedy)


def what_trains(run: Run, settings: Heal, models: Models) -> Trains:
    decoder = models.student.decoder
    trains = defaults.trained(settings, decoder.parameters())
    rate = defaults.learning_rate(settings, trains, weight_scale(decoder))
    known = samples(models.dense.decoder) if trains == "gaps" and models.plan is None else []

    def ready(opened: OpenModel) -> Callable[[], None]:
        return prepare(opened.decoder, trains, settings, run.recipe.seed, models.plan, known)

    return Trains(trains, ready, rate)


def tokens_to_train_on(run: Run, settings: Heal, accelerator: Accelerator, models: Models) -> TrainingTokens:
    """Made by the first process. Raises InputError for what cannot be read, or the student does not know."""
    first = accelerator.is_main_process

    def make() -> TrainingTokens:
        return training_tokens(models.dense, settings, run.recipe, run.progress)

    with run.clock.stage("tokens"):
        mine = kept_tokens(run.work, make, run.progress) if first else None
        made = of_the_first(accelerator, mine)
    assert made is not None
    check_known(made.ids, models.student.decoder, models.dense.record.source)
    return made


def train_student(
    run: Run,
    settings: Heal,
    accelerator: Accelerator,
    models: Models,
    trains: Trains,
    made: TrainingTokens,
    before: dict[str, Perplexity],
) -> tuple[Standing, Healing]:
    """Train what is ready to be, in float32; what is to be kept is `best` of the first, where that holds anything.

    before: perplexity of the start, by text. The record's `after` is still to be measured.
    """
    progress, student = run.progress, models.student
    student.decoder.model.float()  # small steps are lost in weights of 16 bits
    goal = defaults.goal_of(settings)
    loss = StudentLoss(student.decoder, goal, settings.checkpointing)
    dense = Resident(models.dense.decoder, settings.temperature, accelerator.autocast) if goal.kl > 0 else None
    with room_for("healing"):
        automatic = not is_said(settings.precision)
        settle_precision(loss, dense, made.ids, accelerator, progress, automatic=automatic)
    teacher, about = _teacher(run, settings, accelerator, models, made, dense)
    rate = trains.rate
    batch = defaults.batch_windows(settings, made.ids.shape[1], len(made.ids))
    schedule, rates = defaults.schedule_of(len(made.ids), batch, rate)
    training = TrainingPlan(schedule, rates, student.decoder.batch_tokens, *defaults.evaluations(made, schedule.steps))
    learning = sum(one.numel() for one in student.model.parameters() if one.requires_grad)
    progress.say(
        f"healing: {trains.what} ({words.short_count(learning)} parameters), {settings.objective}, "
        f"{made.ids.numel():,} tokens in {schedule.steps:,} steps, learning rate {rate:.2g}"
    )
    with run.clock.stage("healing"):
        done = train(loss, teacher, made, training, accelerator, progress, run.work)
    accelerator.end_training()
    accelerator.free_memory()  # it holds what was prepared: weights, gradients and moments
    healing = Healing(
        objective=settings.objective,
        mix=settings.mix if settings.objective == "mix" else None,
        temperature=settings.temperature,
        trained=trains.what,
        rank=adapter_rank(student.decoder, settings) if trains.what == "lora" else None,
        parameters=learning,
        **about,
        tokens=done.tokens,
        steps=done.step,
        batch_tokens=batch * made.ids.shape[1],
        length=made.ids.shape[1],
        learning_rate=rate,
        precision=computed_in(accelerator),
        processes=accelerator.num_processes,
        seconds=round(done.seconds, 3),
        tokens_per_second=round(done.tokens / max(done.seconds, 1e-9), 1),
        train=done.losses,
        held_out=done.guarding.points,
        guard=done.guarding.guard,
        kept=done.guarding.best_tokens,
        before=before,
        after={},
        stopped=done.stopped,
    )
    return done, healing


def tell_if_not_kept(done: Standing, progress: Reporter) -> None:
    if not done.best:
        worse = f"{done.guarding.guard} got worse" if done.guarding.worse() else "no held-out loss got better"
        progress.warn(f"healing is not kept, for {worse}: these are the weights of the start")


def _teacher(
    run: Run, settings: Heal, accelerator: Accelerator, models: Models, made: TrainingTokens, dense: Resident | None
) -> tuple[Teacher | None, dict[str, Any]]:
    """Who says what the dense model would, and what results say of it. A dense model that is not asked while the
    student trains is given up.
    """
    if dense is None:
        models.give_up_dense()
        return None, {"teacher": None}
    place = _place(run, settings, accelerator, models)
    if place == "resident":
        return dense, {"teacher": place}
    counted = made.counted if made.counted is not None else all_but(made.prefix, made.ids)
    precision = computed_in(accelerator)
    about = {
        "what": "targets",
        "model": models.dense.record.sha256,
        "dtype": str(models.dense.decoder.dtype),
        "temperature": settings.temperature,
        **({} if precision == "no" else {"computed in": precision}),
        "tokens": [tuple(made.ids.shape), *(sha256(one.numpy().tobytes()).hexdigest() for one in (made.ids, counted))],
    }
    stored = Stored(cache_folder() / TARGETS / digest(about)[:16], counted[:, 1:].sum(1), made.ids.shape[1])
    if accelerator.is_main_process:
        kept = "kept from before" if not stored.missing() else f"in {stored.folder}"
        run.progress.say(f"what the dense model says of the tokens takes {words.megabytes(stored.bytes)}, {kept}")
        with run.clock.stage("teacher"):
            stored.make(dense, made.ids, counted, run.progress)
    accelerator.wait_for_everyone()
    models.give_up_dense()
    return stored, {"teacher": place, "teacher_bytes": stored.bytes}


def _place(run: Run, settings: Heal, accelerator: Accelerator, models: Models) -> TeacherPlace:
    """The same in all processes, and in one that goes on: what memory is free differs, and float16 changes a result."""
    if settings.teacher != "auto":
        return settings.teacher
    kept = run.work.find("teacher")
    place: TeacherPlace = _usual_place(models) if kept is None else kept.value
    if kept is None:
        run.work.keep("teacher", place, what="where the dense model's answers come from")
    return of_the_first(accelerator, place)


def _usual_place(models: Models) -> TeacherPlace:
    """In memory, where what training takes fits beside both models: asking the dense model costs a quarter of the time,
    but no disk, and a token is seen a few times at most.
    """
    free = free_memory(models.student.decoder.device)
    learning = sum(one.numel() for one in models.student.model.parameters() if one.requires_grad)
    free = psutil.virtual_memory().available if free is None else free
    return "resident" if defaults.fits_in_memory(learning, free) else "stored"
