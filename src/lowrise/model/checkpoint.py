"""Writing a checkpoint and proving it by reloading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from lowrise.errors import ProofError
from lowrise.files import writing
from lowrise.heap import collect
from lowrise.model.cached import disagreement, uncached_logits
from lowrise.model.companions import copy_companions, forget_missing_code
from lowrise.model.custom import write_custom_model, write_stock_type
from lowrise.model.decoder import Decoder
from lowrise.model.formats import cast_as_loaded, check_as_loaded
from lowrise.model.own_formats import restore_formats
from lowrise.model.placement import how_to_load, settle
from lowrise.model.shards import save_model
from lowrise.model.source import OpenModel, open_model
from lowrise.model.spelling import spell_config, spell_tokenizer
from lowrise.model.wrappers import auto_class, wrapper_class
from lowrise.store import LayerStore

_SAME = {torch.float32: 1e-4}
"""Cached and uncached logits differ by so much of the largest one at most; other formats round more: `_COARSE`."""
_COARSE = 5e-2
_OF_DENSE = 3.0  # or by so many times what the dense model differs from itself, on more rows: rare tokens decide there


def save_and_prove(opened: OpenModel, folder: Path, *, out: Path, compute: torch.dtype) -> Decoder:
    """Write the model into `folder` in the format that it is to be saved in, reload it, prove it equal, and return it
    as a load in `compute` gives it.

    out: the name that the user knows the folder by, for error messages.

    The model in memory is given up before the reload, so that one model is held at a time: `opened.decoder` is dead
    after. Raises ProofError when logits differ or cached and uncached generation disagree.
    """
    decoder, dtype = opened.decoder, opened.save_dtype
    model, devices, custom, batching = decoder.model, decoder.devices, bool(decoder.networks), decoder.batching
    remote = type(model).__module__.startswith("transformers_modules.")
    cast_as_loaded(model, dtype, decoder.store)
    ids, many = _proof_ids(decoder, rows=2), _proof_ids(decoder, rows=8)
    before = _finite_logits(model, ids)
    write_model(opened, folder, out)
    decoder.release()
    del model
    collect()
    loading = _Loading(folder, devices, custom or remote, decoder.store)
    reloaded = loading.decoder(dtype)
    _check_equal(before, uncached_logits(reloaded.model, ids))
    if compute != dtype:
        reloaded.release()
        collect()
        reloaded = loading.decoder(compute)
    if disagreement(reloaded.model, ids) > _SAME.get(compute, _COARSE):
        found = disagreement(reloaded.model, many)
        reloaded.release()
        collect()
        _check_cached(found, _dense_disagreement(opened, many, compute, devices))
        collect()
        reloaded = loading.decoder(compute)
    reloaded.batching.follow(batching)
    return reloaded


def save_and_keep(opened: OpenModel, folder: Path, *, out: Path, dense: float) -> None:
    """The same of a model that came from no file and stays as it is: nothing of it is cast, moved or given up.

    dense: `own_disagreement` of the model before it was edited. Holds two models while it compares them. Raises
    ModelError for a parameter in another number format than a load gives it.
    """
    decoder = opened.decoder
    check_as_loaded(decoder.model, opened.save_dtype, decoder.where)
    ids = _proof_ids(decoder, rows=2)
    before = _finite_logits(decoder.model, ids)
    write_model(opened, folder, out)
    reloaded = _Loading(folder, decoder.devices, bool(decoder.networks), decoder.store).decoder(opened.save_dtype).model
    _check_equal(before, uncached_logits(reloaded, ids))
    if disagreement(reloaded, ids) > _SAME.get(opened.save_dtype, _COARSE):
        _check_cached(disagreement(reloaded, _proof_ids(decoder, rows=8)), dense)


def write_model(opened: OpenModel, folder: Path, out: Path) -> None:
    """Weights and all that a loader needs, into `folder`. out: the name that the user knows it by."""
    decoder = opened.decoder
    with writing(out):
        # a loader turns the names that files may have into the class's own by model type, which networks change
        save_model(decoder, folder, original=not decoder.networks)
        write_stock_type(decoder, folder)
        if opened.place is not None and wrapper_class(decoder.model.config) is not None:
            restore_formats(opened.place, folder)
        copy_companions(opened.place, folder, opened.tokenizer, with_code=opened.trust_remote_code)
        forget_missing_code(folder)
        spell_config(folder)
        spell_tokenizer(folder, opened.trust_remote_code)
        if decoder.networks:
            write_custom_model(decoder, folder)


def own_disagreement(decoder: Decoder) -> float:
    """How far cached logits of a model are from its uncached ones, as a share of the largest one."""
    return disagreement(decoder.model, _proof_ids(decoder, rows=8))


def _finite_logits(model: Any, ids: Tensor) -> Tensor:
    logits = uncached_logits(model, ids)
    if not torch.isfinite(logits).all():
        raise ProofError("the model's logits are not finite: the cut or the repair broke it")
    return logits


def _check_equal(before: Tensor, after: Tensor) -> None:
    if not torch.equal(before, after):
        raise ProofError(f"the reloaded checkpoint's logits differ by up to {(before - after).abs().max():.3g}")


def _check_cached(found: float, dense: float) -> None:
    if found > _OF_DENSE * dense:
        raise ProofError(
            f"cached and uncached logits differ by {found:.2%} of the largest one, "
            f"those of the model it was made from by {dense:.2%}"
        )


@dataclass(frozen=True)
class _Loading:
    """store: of the kind that layers are to live in."""

    folder: Path
    devices: list[torch.device]
    trusted: bool
    store: LayerStore

    def decoder(self, dtype: torch.dtype) -> Decoder:
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=self.trusted)
        store = self.store.anew()
        with store.placing(self.folder.glob("*.safetensors")):
            loaded = auto_class(config).from_pretrained(
                self.folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=self.trusted,
                **how_to_load(self.devices),
            )
        where = str(self.folder)
        return Decoder(settle(loaded, self.devices, where).eval(), where, store)


def _proof_ids(decoder: Decoder, rows: int) -> Tensor:
    """Fixed rows of token ids inside the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    top = min(decoder.model.get_input_embeddings().weight.shape[0], 30_000)
    return torch.randint(top, (rows, 16), generator=generator).to(decoder.device)


def _dense_disagreement(opened: OpenModel, ids: Tensor, dtype: torch.dtype, devices: Sequence[torch.device]) -> float:
    """The same of the model that the checkpoint was made from, read again in that format."""
    dense = open_model(
        str(opened.place),
        dtype=str(dtype).removeprefix("torch."),
        device=",".join(map(str, devices)),
        trust_remote_code=opened.trust_remote_code,
        allow_pickle=opened.allow_pickle,
        memory=opened.memory,
    )
    return disagreement(dense.model, ids)
