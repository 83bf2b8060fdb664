"""Calibration text that the model writes itself: ancestral sampling from BOS at temperature 1, data-free.

A row begins with what the tokenizer puts in front of a text; where it puts nothing there, BOS is read and not kept.
After an end-of-text token the row goes on with BOS, so every row is a full window. The cache is written into room
reserved in advance: growing it by concatenation, as the stock one does, copies it once a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from lowrise.calibration.prefix import check_prefix
from lowrise.errors import TextError
from lowrise.model.batching import joined_rows
from lowrise.model.cache import layer_caches
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

_MOST_ROWS = 128
_MOST_TOKENS = 2**30  # their ids alone take 8 GiB


class _ReservedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (batch, heads, tokens, head size), written in place."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room, self._used = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        batch, heads, new, size = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys = key_states.new_empty(batch, heads, self._room, size)
            self._values = value_states.new_empty(batch, heads, self._room, value_states.shape[-1])
        end = self._used + new
        self._keys[:, :, self._used : end] = key_states
        self._values[:, :, self._used : end] = value_states
        self._used = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values


def _reserved_cache(decoder: Decoder, room: int) -> DynamicCache:
    """The family's own cache, its plain layers replaced by reserved ones (sliding layers are already bounded)."""
    cache = DynamicCache(config=decoder.config)
    cache.layers = [_ReservedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@torch.no_grad()
def write_windows(
    decoder: Decoder,
    tokenizer: Any,
    *,
    samples: int,
    length: int,
    seed: int,
    progress: Reporter,
    prefix: tuple[int, ...] = (),
) -> Tensor:
    """(samples, length) token ids sampled from the model, the same for the same seed and machine.

    Every token's uniform number is drawn beforehand, so how many rows are written at once changes nothing.
    prefix: the tokens in front of every row, part of its length.
    Raises ModelError for a family that keeps no keys and values, TextError for one without a token to begin with, or
    whose token the model cannot embed, and for more tokens than could ever be written.
    """
    layer_caches(decoder, remedy="give --text")
    start, ends = _special_tokens(decoder, tokenizer, prefix)
    check_prefix((start,), decoder)
    if not len(prefix) < length or samples * length > _MOST_TOKENS:
        expected = f"rows of more than {len(prefix)} tokens, and {_MOST_TOKENS:,} tokens at most in all"
        found = f"{samples:,} rows of {length:,}"
        raise TextError("the model's own text", expected, found, "change --samples or --length")
    uniform = torch.rand(samples, length - len(prefix), generator=torch.Generator().manual_seed(seed))
    rows = _rows_at_once(decoder, length)
    done = []
    progress.say(
        f"the model writes its own text, {samples} {'window' if samples == 1 else 'windows'} of {length} tokens"
    )
    with progress.bar("writing", samples * length) as bar:
        for first in range(0, samples, rows):
            drawn = uniform[first : first + rows].to(decoder.device)

            def write(part: slice, drawn: Tensor = drawn) -> Tensor:
                own = drawn[part]
                cache = _reserved_cache(decoder, length)
                token = torch.tensor([prefix or (start,)], device=own.device).expand(len(own), -1)
                columns = [token] if prefix else []
                for column in own.split(1, dim=1):  # nothing in here waits for an accelerator
                    logits = decoder.model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1].float()
                    chosen = _draw(logits, column)
                    columns.append(chosen)
                    token = torch.where(torch.isin(chosen, ends), start, chosen)
                    bar.advance(len(own), steps=len(own))
                return torch.cat(columns, dim=1).cpu()

            done.append(decoder.batching.in_parts(len(drawn), length, write, joined_rows))
    return torch.cat(done)


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row of softmax(logits), (batch, vocabulary) and (batch, 1) in [0, 1) → (batch, 1), by inversion."""
    cumulated = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)


def _special_tokens(decoder: Decoder, tokenizer: Any, prefix: tuple[int, ...]) -> tuple[int, Tensor]:
    """(the token that a row begins with, and that a new text begins with inside of it; those that end a text)"""
    ends = end_tokens(decoder, tokenizer)
    start = tokenizer.bos_token_id
    if prefix and start not in prefix:
        start = prefix[-1]
    if start is None:
        start = decoder.config.bos_token_id
    if start is None:
        start = next(iter(ends), None)
    if start is None:
        raise TextError("the model's own text", "a token to begin with", "no BOS and no EOS token", "give --text")
    return int(start), torch.tensor(ends, dtype=torch.long, device=decoder.device)


def end_tokens(decoder: Decoder, tokenizer: Any) -> list[int]:
    """Those at which a text ends: the model's own, then the tokenizer's."""
    ends = decoder.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in [*ends, tokenizer.eos_token_id] if end is not None]


def _rows_at_once(decoder: Decoder, length: int) -> int:
    """Rows whose keys and values fit in the bound, from the sizes the config gives."""
    config = decoder.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * len(decoder) * heads * size * length * torch.finfo(decoder.dtype).bits // 8
    return rows_for(row, decoder.batching.cache_bytes)


def rows_for(row: int, cache_bytes: int) -> int:
    """Of so many bytes of keys and values each, and in all."""
    return max(1, min(_MOST_ROWS, int(cache_bytes // max(1, row))))
