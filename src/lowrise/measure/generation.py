"""Greedy decoding: always the likeliest token, one after another. What writes text and what times it decode by this."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from lowrise.model.decoder import Decoder


def greedy(decoder: Decoder, ids: Tensor) -> Iterator[Tensor]:
    """ids (batch, tokens), on the decoder's device → the next token (batch, 1), the one after it, and so on.

    A token is computed when it is asked for: the first one is the prefill, every other one a step of decoding. As
    `generate` does, the head reads the last position alone, where the family's forward pass lets one say so. A family
    without a cache reads everything again for every token.
    """
    token, cache = _likeliest(decoder, ids, None)
    yield token
    if cache is None:
        while True:
            ids = torch.cat([ids, token], dim=1)
            token, _ = _likeliest(decoder, ids, None)
            yield token
    del ids
    while True:
        token, cache = _likeliest(decoder, token, cache)
        yield token


@torch.no_grad()
def continued(decoder: Decoder, ids: Tensor, count: int, ends: Collection[int]) -> list[list[int]]:
    """What the model writes behind each row of ids (batch, tokens): at most `count` tokens, up to one of `ends`."""

    def of(part: slice) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in ids[part]]
        tokens = islice(greedy(decoder, ids[part].to(decoder.device)), count)
        while some := [*islice(tokens, _looks(decoder.device))]:
            for chosen in torch.cat(some, dim=1).T.tolist():
                for row, one in zip(rows, chosen, strict=True):
                    if not row or row[-1] not in ends:
                        row.append(one)
            if all(row[-1] in ends for row in rows):
                break
        return rows

    return decoder.batching.in_parts(len(ids), ids.shape[1] + count, of, lambda parts: [*chain(*parts)])


def _looks(device: torch.device) -> int:
    """Tokens after which it is looked whether texts have ended. An accelerator waits for each look."""
    return 1 if device.type == "cpu" else 16


def _likeliest(decoder: Decoder, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The likeliest token behind each row (batch, 1), and what the family keeps of all it has read, if it does."""
    how: dict[str, Any] = {}
    if cache is not None:
        how["past_key_values"] = cache
    elif "logits_to_keep" in inspect.signature(decoder.model.forward).parameters:
        how["logits_to_keep"] = 1
    out = decoder.model(input_ids=ids, use_cache=True, **how)
    return out.logits[:, -1].argmax(-1, keepdim=True), getattr(out, "past_key_values", None)
