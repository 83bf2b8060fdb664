"""Calibration tokens as a file: several runs stand on the very same ones, and a model writes its own only once."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lowrise.calibration.sentences import Sentences
from lowrise.calibration.tokens import Windows
from lowrise.errors import TextError
from lowrise.headers import safetensors_header
from lowrise.plan import TextRecord
from lowrise.reading import parse_json


def store_tokens(made: Windows | Sentences, file: Path) -> None:
    """Token ids (rows, tokens), for sentences their mask too, for windows of two kinds which of them the model wrote;
    source, seed, length, the prefix's length, the texts and sha256 stand in the header.
    """
    about = {"source": made.source, "seed": str(made.seed), "length": str(made.length), "sha256": made.sha256()}
    about |= {"prefix": str(made.prefix), "texts": json.dumps([text.model_dump() for text in made.texts])}
    tensors = {"ids": made.ids.contiguous()}
    if isinstance(made, Sentences):
        tensors["mask"] = made.mask.contiguous()
    elif made.written is not None:
        tensors["written"] = made.written.contiguous()
    save_file(tensors, file, metadata=about)


def stored_tokens(path: str) -> Windows | Sentences:
    """What `store_tokens` wrote. Raises TextError for a file that is not that, or not as it was written."""
    remedy = "leave `tokens` out of the recipe, or compare anew"
    safetensors_header(Path(path), TextError, remedy)
    try:
        with safe_open(path, framework="pt") as file:
            about, ids = file.metadata() or {}, file.get_tensor("ids")
            mask, written = (file.get_tensor(name) if name in file.keys() else None for name in ("mask", "written"))  # noqa: SIM118 - not a mapping
        made: Windows | Sentences
        source, seed, prefix = about["source"], int(about["seed"]), int(about["prefix"])
        listed = parse_json(about["texts"], path, TextError, "a file of stored tokens", remedy)
        texts = tuple(TextRecord.model_validate(text) for text in listed)
        if mask is None:
            made = Windows(ids, source, seed, written, prefix, texts)
        else:
            made = Sentences(ids, mask.to(torch.bool), source, seed, int(about["length"]), prefix, texts)
    except OSError as error:
        raise TextError(path, "a file of stored tokens", error.strerror or str(error), remedy) from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TextError(path, "a file of stored tokens", f"something else ({error})", remedy) from error
    if made.sha256() != about.get("sha256"):
        raise TextError(path, f"the tokens of sha256 {about.get('sha256')}", made.sha256(), remedy)
    return made
