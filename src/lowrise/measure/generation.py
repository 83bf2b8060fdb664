"""Greedy decoding: always the likeliest token, one after another. What writes text and what times it decode by this."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
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
def continued(
    decoder: Decoder, prompts: Sequence[Sequence[int]], counts: Sequence[int], ends: Collection[int]
) -> list[list[int]]:
    """What the model writes behind each of the prompts: at most so many tokens as its count, up to one of `ends`.

    All at once and nothing padded: what the shortest prompt has of places is read together, then a token of each at a
    time, where a prompt goes on its own and else what the model writes. A step reads all weights, however many rows
    it has.
    """

    def of(rows: slice) -> list[list[int]]:
        return _continued(decoder, prompts[rows], counts[rows], ends)

    longest = max(len(prompt) + count for prompt, count in zip(prompts, counts, strict=True))
    return decoder.batching.in_parts(len(prompts), longest, of, lambda parts: [*chain(*parts)])


def _continued(
    decoder: Decoder, prompts: Sequence[Sequence[int]], counts: Sequence[int], ends: Collection[int]
) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in prompts]
    read = min(map(len, prompts))
    ids = torch.tensor([list(prompt[:read]) for prompt in prompts], device=decoder.device)
    token, cache = _likeliest(decoder, ids, None)
    while True:
        column = token.squeeze(1).tolist()
        for number, (prompt, row, count) in enumerate(zip(prompts, rows, counts, strict=True)):
            if read < len(prompt):
                column[number] = prompt[read]
            elif len(row) < count and not (row and row[-1] in ends):
                row.append(column[number])
        read += 1
        if all(len(row) == count or (row and row[-1] in ends) for row, count in zip(rows, counts, strict=True)):
            return rows
        token = torch.tensor(column, device=decoder.device).unsqueeze(1)
        ids = token if cache is not None else torch.cat([ids, token], dim=1)
        token, cache = _likeliest(decoder, ids, cache)


def _likeliest(decoder: Decoder, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The likeliest token behind each row (batch, 1), and what the family keeps of all it has read, if it does."""
    how: dict[str, Any] = {}
    if cache is not None:
        how["past_key_values"] = cache
    elif "logits_to_keep" in inspect.signature(decoder.model.forward).parameters:
        how["logits_to_keep"] = 1
    out = decoder.model(input_ids=ids, use_cache=True, **how)
    return out.logits[:, -1].argmax(-1, keepdim=True), getattr(out, "past_key_values", None)
