"""What a tokenizer puts in front of a text: BOS, for models that never saw one without it (docs/methods.md)."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from lowrise.errors import TextError
from lowrise.model.decoder import Decoder
from lowrise.model.tokenizing import tokenizing
from lowrise.settings import Bos

_PROBES = ("a", "The", "1", "\n")  # one at least is known to a tokenizer whose vocabulary is small


def leading_tokens(tokenizer: Any, bos: Bos) -> tuple[int, ...]:
    """The special tokens in front of whatever the tokenizer encodes of itself, all of them; () with `never`.

    Found by trying, for no setting says it of every tokenizer: `add_bos_token` is not everywhere, and a template may
    put two tokens in front, or EOS in place of BOS. What is put behind a text, as EOS, belongs to no window.
    """
    if bos == "never":
        return ()
    for probe in _PROBES:
        try:
            plain, whole = (encode(tokenizer, probe, "", add_special_tokens=add) for add in (False, True))
        except TextError:  # one without an unknown token, for instance: it does not know this probe
            continue
        places = [at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain]
        if plain and places:
            return tuple(whole[: places[0]])
        if plain:  # the text itself is cut otherwise behind special tokens
            special = set(tokenizer.all_special_ids)
            return tuple(takewhile(special.__contains__, whole))
    return ()


def check_prefix(prefix: tuple[int, ...], decoder: Decoder) -> None:
    """Raises TextError for a token in front of a text that the model has no embedding for."""
    rows = decoder.model.get_input_embeddings().weight.shape[0]
    if max(prefix, default=0) >= rows:
        found = f"token {max(prefix)} put in front of every text"
        raise TextError("the tokenizer", f"tokens below {rows}, which the model can embed", found, "say --bos never")


def behind(prefix: tuple[int, ...], rows: Tensor) -> Tensor:
    """Rows (n, tokens) → (n, prefix + tokens), each with `prefix` in front."""
    front = torch.tensor(prefix, dtype=rows.dtype).expand(len(rows), -1)
    return torch.cat([front, rows], dim=1) if prefix else rows


def encode(tokenizer: Any, text: str, where: str, **how: bool) -> list[int]:
    """The tokenizer's ids of `text`. Raises TextError for a text that makes it fail."""
    with tokenizing(where, TextError, "text that the tokenizer can read", "give other text"):
        return [int(token) for token in tokenizer(text, verbose=False, **how)["input_ids"]]
