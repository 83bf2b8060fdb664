"""Proof of a GGUF file that was written: every field and tensor read back, and what transformers opens from it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrise.engines.gguf_export import Content, Written
from lowrise.engines.gguf_file import GgufFile, Numbers
from lowrise.engines.gguf_tensors import TensorMap
from lowrise.engines.gguf_types import is_rounded
from lowrise.errors import ModelError, ProofError
from lowrise.model.source import OpenModel, open_model

_MOST_TOKENS = 1040  # of the row that is run: longer windows of attention are not filled by it
_TOP = 30_000  # ids up to which the row's are drawn
_KINDS = {torch.float16: "F16", torch.bfloat16: "BF16"}  # a norm's weight and one are added in the folder's own format


def read_back(file: GgufFile, content: Content) -> None:
    """Raises ProofError for a field or a tensor that is not what it is to be.

    Copied tensors have the base's bytes; others are what rounding to their format leaves of the model's numbers, and
    transformers' reading of these gives the model's parameters again.
    """
    if list(file.header.places) != list(content.fields):
        raise ProofError(f"{file.path.name} read back has other fields")
    for key, written in content.fields.items():
        if b"".join(file.field(key)) != written:
            raise ProofError(f"{file.path.name} read back has another value of {key}")
    if list(file.header.tensors) != [one.name for one in content.tensors]:
        raise ProofError(f"{file.path.name} read back has other tensors")
    for one in content.tensors:
        if (file.header.tensors[one.name].kind, file.shape(one.name)) != (one.kind, one.shape):
            raise ProofError(f"{one.name} read back is of another format or shape")
        _check_tensor(file, content, one)


def _check_tensor(file: GgufFile, content: Content, one: Written) -> None:
    if one.copied:
        if not np.array_equal(file.raw(one.name), content.origin.base.raw(one.before)):
            raise ProofError(f"{one.name} read back is not the base's {one.before}")
        return
    numbers = content.numbers(one)
    if not is_rounded(file.numbers(one.name), numbers, one.kind):
        raise ProofError(f"{one.name} read back is not what rounding to {one.kind} leaves of the model's numbers")
    if one.held is not None:
        _check_turned(content, one, numbers, one.held.constant)


def _check_turned(content: Content, one: Written, numbers: Numbers, constant: int) -> None:
    """That reading what was turned round gives the parameter again; a constant costs a rounding."""
    for landing in content.map.landings(one.name, numbers):
        ours = content.map.state[landing.parameter].detach().float().cpu().numpy()
        if landing.mask is not None:
            ours, theirs = ours[landing.mask], landing.numbers[landing.mask]
        else:
            theirs = landing.numbers
        allowed = np.spacing(np.abs(ours) + abs(constant)) if constant else 0.0
        if ours.shape != theirs.shape or not (np.abs(ours - theirs) <= allowed).all():
            raise ProofError(f"{one.name}: transformers would not read {landing.parameter} back from it")


def known_parameters(content: Content) -> dict[str, Tensor]:
    """Parameters that transformers must read from the file just as the folder has them: nothing of them was rounded."""
    exact: dict[str, bool] = {}
    for one in content.tensors:
        name = content.map.parameter(one.name)
        if name is not None:
            added = one.held is not None and one.held.constant != 0
            exact[name] = exact.get(name, True) and (one.copied or one.kind == "F32") and not added
    return {name: content.map.state[name] for name, same in exact.items() if same}


def matches_folder(file: GgufFile, opened: OpenModel) -> None:
    """That a file which another program wrote holds the folder's parameters, each rounded to its format at most.

    Raises ProofError, and UnknownArchitectureError where transformers does not read such files.
    """
    mapped = TensorMap(opened.model, file.architecture, file.path)
    if file.layers != len(opened.decoder):
        raise ProofError(f"{file.path.name} has {file.layers} layers, the folder {len(opened.decoder)}")
    coarse = _KINDS.get(opened.save_dtype, "F32")
    for name, tensor in file.header.tensors.items():
        if mapped.parameter(name) is None:
            continue
        found = file.numbers(name)
        numbers = mapped.written(mapped.held(name, file.shape(name)), file.shape(name))
        close = found.shape == numbers.shape and any(is_rounded(found, numbers, kind) for kind in (tensor.kind, coarse))
        if not close:
            raise ProofError(f"{name} in {file.path.name} is not what rounding leaves of the folder's parameter")


def opens_alike(file: GgufFile, opened: OpenModel, known: Mapping[str, Tensor] | None) -> OpenModel:
    """What transformers opens from the file, in float32 on the CPU; `opened`, the folder, is given up.

    Its parameters, put into the folder's own stack, give the same states, bit for bit: kinds of layers, windows and
    rotary embeddings are the same. known: parameters that must be equal already, as the folder has them.
    Holds two models for a while. Raises ModelError where a reader of the file would take layers for others.
    """
    theirs = open_model(str(file.path), dtype="float32", device="cpu")
    _check_kinds(opened, theirs)
    state = theirs.model.state_dict()
    for name, ours in (known or {}).items():
        read = state.get(name)
        if read is None or not torch.equal(read.to(opened.save_dtype), ours.cpu().to(opened.save_dtype)):
            raise ProofError(f"transformers reads another {name} from {file.path.name}")
    model = opened.model.to("cpu").float()
    missing = set(dict(model.named_parameters())) - set(state)
    if missing:
        raise ProofError(f"transformers reads no {min(missing)} from {file.path.name}")
    model.load_state_dict(state, strict=False, assign=True)
    ids = _row(opened)
    before, after = _seen(model, ids), _seen(theirs.model, ids)
    opened.decoder.release()
    del model
    gc.collect()
    for what, ours, read in zip(("state", "logits"), before, after, strict=True):
        if not torch.equal(ours, read):
            gap = float((ours - read).abs().max())
            expected = "a file whose readers take each layer for what it is in the folder"
            found = f"{what} that differ by up to {gap:.3g} with the same weights"
            raise ModelError(opened.record.source, expected, found, "cut it with --for llama.cpp,transformers")
    return theirs


def _check_kinds(opened: OpenModel, theirs: OpenModel) -> None:
    """Raises ModelError naming the first layer whose kind readers of GGUF take from its number, and take wrong."""
    ours, read = (getattr(one.decoder.config, "layer_types", None) for one in (opened, theirs))
    for layer, (own, other) in enumerate(zip(ours or (), read or (), strict=False)):
        if own != other:
            expected = f"layers whose kinds GGUF's readers take right, {own} as layer {layer}"
            remedy = "cut it with --for llama.cpp,transformers"
            raise ModelError(opened.record.source, expected, f"{other} by its number", remedy)


def _row(opened: OpenModel) -> Tensor:
    """(1, tokens): fixed ids, enough of them to fill a sliding window, if it is not long."""
    window = getattr(opened.decoder.config, "sliding_window", None)
    tokens = window + 16 if isinstance(window, int) and window + 16 <= _MOST_TOKENS else 32
    top = min(opened.model.get_input_embeddings().weight.shape[0], _TOP)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(top, (1, min(tokens, opened.decoder.max_length)), generator=generator)


@torch.no_grad()
def _seen(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What leaves the stack, and the logits of the first tokens."""
    return model.base_model(input_ids=ids, use_cache=False)[0], model(input_ids=ids[:, :16], use_cache=False).logits
