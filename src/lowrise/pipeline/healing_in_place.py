"""Healing a model in memory, for the Python API: nothing is written, and what fails leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lowrise.errors import ModelError
from lowrise.heal.processes import begin_logs, start
from lowrise.model.custom import refuse_network
from lowrise.model.source import OpenModel
from lowrise.pipeline.context import Run
from lowrise.pipeline.healing_steps import (
    Models,
    check_vocabularies,
    tell_if_not_kept,
    tokens_to_train_on,
    train_student,
    what_trains,
)
from lowrise.pipeline.measuring import perplexities
from lowrise.pipeline.opening import evaluation_texts, refuse_other_tokenizer
from lowrise.report.healing import sentences
from lowrise.results import Healing
from lowrise.settings import Heal


def check_models(models: Models) -> None:
    """Raises ModelError for a student that cannot learn from this dense model."""
    student, dense = models.student, models.dense
    source, theirs = student.record.source, dense.record.source
    refuse_network(dense.decoder)
    refuse_other_tokenizer(student.tokenizer, dense.tokenizer, source, f"dense, {theirs}")
    check_vocabularies(student, dense)
    check_depths(source, len(student.decoder), theirs, len(dense.decoder))
    devices = {str(parameter.device) for parameter in student.model.parameters()}
    if len(devices) > 1:
        raise ModelError(source, "a model on one device", ", ".join(sorted(devices)), "save it, and use lowrise heal")


def check_depths(source: str, layers: int, dense: str, most: int) -> None:
    """Raises ModelError for a student as deep as the dense model."""
    if layers >= most:
        expected = f"a model of fewer layers than {dense}, which has {most}"
        remedy = "apply a plan to it first, and give the dense model as dense"
        raise ModelError(source, expected, f"{layers}", remedy)


def heal_in_place(run: Run, settings: Heal, models: Models) -> Healing:
    """Train the student of `models`: the same object after, in the number formats that it had, with what is kept.

    Interrupted or refused, it has the weights of the start. Raises InputError for tokens that cannot be made, and for
    parts of a model that cannot be told.
    """
    accelerator = start(settings, run.recipe.device)
    begin_logs(accelerator, settings)
    student = models.student
    texts = evaluation_texts(run.recipe, models.dense)
    trains = what_trains(run, settings, models)
    formats = {name: tensor.dtype for name, tensor in _tensors(student.model)}
    merge = trains.ready(student)
    kept = _copies(student)
    try:
        made = tokens_to_train_on(run, settings, accelerator, models)
        texts = texts or made.unseen
        before = perplexities(run, student, texts)
        done, healing = train_student(run, settings, accelerator, models, trains, made, before)
        tell_if_not_kept(done, run.progress)
        kept = done.best or kept
    finally:
        _load_weights(student.model, kept, merge, formats)
    healing = healing.but(after=perplexities(run, student, texts))
    for sentence in sentences(healing):
        run.progress.say(sentence)
    return healing


def _copies(student: OpenModel) -> dict[str, Tensor]:
    """Of what trains, on the CPU, by name."""
    return {name: one.detach().cpu().clone() for name, one in student.model.named_parameters() if one.requires_grad}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _load_weights(
    model: nn.Module, weights: dict[str, Tensor], merge: Callable[[], None], formats: dict[str, torch.dtype]
) -> None:
    """Put `weights` in their places, adapters merged, every tensor in its format."""
    model.zero_grad(set_to_none=True)
    model.load_state_dict(weights, strict=False)
    merge()
    vars(model).pop("peft_config", None)  # of adapters that are merged
    for name, tensor in _tensors(model):
        if tensor.dtype != formats[name]:
            tensor.data = tensor.data.to(formats[name])
