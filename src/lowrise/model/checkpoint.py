"""Writing a checkpoint and proving it by reloading."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lowrise.errors import ProofError
from lowrise.files import writing
from lowrise.model.custom import write_custom_model
from lowrise.model.decoder import Decoder


def save_and_prove(
    decoder: Decoder, tokenizer: Any, folder: Path, *, out: Path, dtype: torch.dtype, compute: torch.dtype
) -> Decoder:
    """Write the model in `dtype` into `folder`, reload it, prove it equal, and return the reloaded one in `compute`.

    out: the name that the user knows the folder by, for error messages.

    The model in memory is given up before the reload, so that one model is held at a time: `decoder` is dead after.
    Raises ProofError when logits differ or cached and uncached generation disagree.
    """
    model, device, custom = decoder.model, decoder.device, decoder.network is not None
    _cast(model, dtype)
    ids = _proof_ids(decoder)
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits.float().cpu()
    with writing(out):
        if custom:
            write_custom_model(decoder, folder)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    decoder.release()
    del model
    gc.collect()
    reloaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=custom
    ).to(device)
    reloaded.eval()
    _prove(reloaded, ids, before)
    _cast(reloaded, compute)
    return Decoder(reloaded, str(folder))


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Parameters alone: buffers such as rotary frequencies keep the precision that a fresh load computes them in."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _proof_ids(decoder: Decoder) -> Tensor:
    """Two fixed rows of token ids inside the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    top = min(decoder.model.get_input_embeddings().weight.shape[0], 30_000)
    return torch.randint(top, (2, 16), generator=generator).to(decoder.device)


@torch.no_grad()
def _prove(model: Any, ids: Tensor, before: Tensor) -> None:
    after = model(input_ids=ids, use_cache=False).logits.float().cpu()
    if not torch.isfinite(before).all():
        raise ProofError("the model's logits are not finite: the cut or the repair broke it")
    if not torch.equal(before, after):
        raise ProofError(f"the reloaded checkpoint's logits differ by up to {(before - after).abs().max():.3g}")
    # a token at a time through the cache, against the whole row at once
    cache, rows = None, []
    for column in ids.split(1, dim=1):
        out = model(input_ids=column, past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        if cache is None:  # a family that keeps nothing and reads everything again
            return
        rows.append(out.logits.float().cpu())
    cached = torch.cat(rows, dim=1)
    scale = float(after.abs().max())
    tolerance = scale * (1e-4 if model.dtype == torch.float32 else 5e-2)
    if not torch.allclose(cached, after, atol=tolerance, rtol=0):
        raise ProofError(f"cached and uncached logits differ by up to {(cached - after).abs().max():.3g}")
