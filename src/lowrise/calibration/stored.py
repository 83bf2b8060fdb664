"""Calibration tokens as a file: several runs stand on the very same ones, and a model writes its own only once."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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
    about, tensors = taken_apart(made)
    save_file(tensors, file, metadata=about)


def taken_apart(made: Windows | Sentences) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What stands in the header of a file of tokens, and its tensors."""
    about = {"source": made.source, "seed": str(made.seed), "length": str(made.length), "sha256": made.sha256()}
    about |= {"prefix": str(made.prefix), "texts": json.dumps([text.model_dump() for text in made.texts])}
    tensors = {"ids": made.ids.contiguous()}
    if isinstance(made, Sentences):
        tensors["mask"] = made.mask.contiguous()
    elif made.written is not None:
        tensors["written"] = made.written.contiguous()
    return about, tensors


def stored_tokens(path: str) -> Windows | Sentences:
    """What `store_tokens` wrote. Raises TextError for a file that is not that, or not as it was written."""
    remedy = "leave `tokens` out of the recipe, or compare anew"
    safetensors_header(Path(path), TextError, remedy)
    try:
        with safe_open(path, framework="pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        made = put_together(about, tensors, path, remedy)
    except OSError as error:
        raise TextError(path, "a file of stored tokens", error.strerror or str(error), remedy) from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TextError(path, "a file of stored tokens", f"something else ({error})", remedy) from error
    if made.sha256() != about.get("sha256"):
        raise TextError(path, f"the tokens of sha256 {about.get('sha256')}", made.sha256(), remedy)
    return made


def put_together(about: dict[str, str], tensors: dict[str, Tensor], where: str, remedy: str) -> Windows | Sentences:
    """The reverse of `taken_apart`; KeyError, ValueError, TypeError or TextError for what it never gave."""
    source, seed, prefix = about["source"], int(about["seed"]), int(about["prefix"])
    listed = parse_json(about["texts"], where, TextError, "a file of stored tokens", remedy)
    texts = tuple(TextRecord.model_validate(text) for text in listed)
    if "mask" not in tensors:
        return Windows(tensors["ids"], source, seed, tensors.get("written"), prefix, texts)
    mask = tensors["mask"].to(torch.bool)
    return Sentences(tensors["ids"], mask, source, seed, int(about["length"]), prefix, texts)
