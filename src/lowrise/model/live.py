"""A model that is in memory already, as a run sees it. Nothing of it is cast, copied or moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.kinds import check_kind
from lowrise.model.source import OpenModel
from lowrise.model.weights import check_finite, state_sha256
from lowrise.plan import ModelRecord
from lowrise.store import LayerStore

IN_MEMORY = "a model in memory"


def open_live(model: Any, tokenizer: Any) -> OpenModel:
    """`model` (a PreTrainedModel) with its tokenizer.

    Raises ModelError for what is no decoder-only model of stock transformers, is quantised, holds NaN or Inf, or has
    parameters that are not in memory (offloaded).
    """
    if not isinstance(model, PreTrainedModel):
        expected, found = "a PreTrainedModel of transformers", type(model).__name__
        raise ModelError(IN_MEMORY, expected, found, "give the model itself, an adapter merged into it")
    where = model.name_or_path or IN_MEMORY
    if model.get_output_embeddings() is None:
        found = f"{type(model).__name__}, which has no head"
        raise ModelError(where, "a causal language model", found, "give the model with its head")
    if type(model).__module__.startswith("transformers_modules."):
        remedy = "give its name to lowrise.open with trust_remote_code"
        raise ModelError(where, "a class of stock transformers", "code that the checkpoint brought", remedy)
    if getattr(model, "hf_quantizer", None) is not None or getattr(model.config, "quantization_config", None):
        raise ModelError(where, "unquantised weights", "quantised ones", "prune the original, then quantise")
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        found = f"{away[0]} offloaded ({len(away)} in all)"
        raise ModelError(where, "all parameters in memory", found, "load the model without offloading")
    check_kind(model.config, where, is_gguf=False)
    with as_evaluated(model):
        check_finite(model, where, LayerStore())
        decoder = Decoder(model, where)
    return OpenModel(
        decoder=decoder,
        tokenizer=tokenizer,
        record=record_of(decoder),
        save_dtype=decoder.dtype,
        bytes_on_disk=sum(parameter.nbytes for parameter in model.parameters()),
        place=None,
    )


def record_of(decoder: Decoder) -> ModelRecord:
    """For plans: of what is in memory now."""
    return ModelRecord(
        source=decoder.where,
        family=decoder.family,
        layers=len(decoder),
        sha256=state_sha256(decoder.model, decoder.store),
    )


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, as a model that was just loaded: every float parameter takes part in gradients, none has any.

    Modes, `requires_grad` and gradients of what is there before and after are then put back as they were.
    """
    modes = {module: module.training for module in model.modules()}
    taken = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _, _ in taken:
        parameter.requires_grad_(parameter.is_floating_point())
        parameter.grad = None
    try:
        yield
    finally:
        for module in model.modules():
            module.training = modes.get(module, modes[model])
        for parameter, wanted, gradient in taken:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
