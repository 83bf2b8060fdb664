"""Speed and memory of generation, of one model or of two in alternation.

Absolute figures depend on the machine and on what else it does; so both models run in turn (dense, compressed, dense,
compressed, ...), the ratio is the median of the ratios of neighbours, and the quartiles say how far to trust it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from lowrise.measure.generation import greedy
from lowrise.measure.held import HeldBytes
from lowrise.measure.ideal import decode_cost, prefill_cost
from lowrise.model.cache import layer_caches
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.results import Ideal, Pace, Rate, Speed, SpeedSettings, Spread

_PROMPT = 256  # tokens, shorter if the positions of a model end before
_NEW = 32  # tokens after the first one
_BATCHES = (1, 8)
_ROUNDS = 7  # that count; one more goes before them, to warm up


@dataclass(frozen=True)
class Timing:
    """Seconds: until the first token is chosen, and from there to the last one."""

    prefill: float
    decode: float


@torch.no_grad()
def speed(compressed: Decoder, dense: Decoder | None, progress: Reporter) -> Speed:
    """Tokens a second, time to the first token, bytes; with `dense` also the ratios and what was possible.

    Prompts are the same random tokens for both; the models are left as they were. `ideal` holds the ratio that the
    removed layers allow (measure/ideal.py) and the share of it that was reached, measured / ideal.
    """
    decoders = {"compressed": compressed} if dense is None else {"dense": dense, "compressed": compressed}
    prompt, new = shape_of(decoders.values())
    ids = prompts(decoders.values(), prompt)
    memory = {name: _memory(decoder, ids, new) for name, decoder in decoders.items()}
    timings = _alternate(decoders, ids, new, progress)
    paces = {name: Pace(**memory[name], **_rates(timings[name], prompt, new)) for name in decoders}
    settings = SpeedSettings(
        prompt_tokens=prompt,
        new_tokens=new,
        rounds=_ROUNDS,
        device=str(compressed.device),
        dtype=str(compressed.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    if dense is None:
        return Speed(compressed=paces["compressed"], settings=settings)
    ratio = _ratios(timings["dense"], timings["compressed"])
    ideal = _ideals(dense, compressed, prompt, new, ratio)
    return Speed(**paces, ratio=ratio, ideal=ideal, settings=settings)


def shape_of(decoders: Iterable[Decoder]) -> tuple[int, int]:
    """(tokens of the prompt, tokens after the first one) that every model has positions for."""
    room = min(decoder.max_length for decoder in decoders)
    new = min(_NEW, room // 2)
    return min(_PROMPT, room - new), new


def prompts(decoders: Iterable[Decoder], tokens: int) -> Tensor:
    """(largest batch, tokens) fixed random ids that every model knows, on the CPU."""
    known = min(decoder.model.get_input_embeddings().weight.shape[0] for decoder in decoders)
    return torch.randint(known, (max(_BATCHES), tokens), generator=torch.Generator().manual_seed(0))


def _memory(decoder: Decoder, ids: Tensor, new: int) -> dict[str, int]:
    """Keys and values that one more token of one row adds, and tensors held at most in the largest batch, in bytes."""
    layers = layer_caches(decoder)
    found = {"kv_bytes_per_token": sum(layer.bytes_per_token for layer in layers)}
    if any(layer.most is not None for layer in layers):
        found["kv_bytes_per_token_past_windows"] = sum(layer.bytes_per_token for layer in layers if layer.most is None)
    with HeldBytes(decoder.model) as held:
        _generate(decoder, ids, new)
    return found | {"peak_bytes": held.peak}


def _alternate(
    decoders: dict[str, Decoder], ids: Tensor, new: int, progress: Reporter
) -> dict[str, dict[int, list[Timing]]]:
    """Timings by model and batch; entries of the same index were neighbours in time."""
    timings: dict[str, dict[int, list[Timing]]] = {name: {batch: [] for batch in _BATCHES} for name in decoders}
    with progress.bar("speed", len(_BATCHES) * (1 + _ROUNDS) * len(decoders)) as bar:
        for batch in _BATCHES:
            for turn in range(1 + _ROUNDS):
                for name, decoder in decoders.items():
                    timing = _generate(decoder, ids[:batch], new)
                    if turn:
                        timings[name][batch].append(timing)
                    bar.advance(batch * (ids.shape[1] + new), f"{name}, batch {batch}")
    return timings


def _generate(decoder: Decoder, ids: Tensor, new: int) -> Timing:
    ids = ids.to(decoder.device)
    began = now(decoder)
    tokens = greedy(decoder, ids)
    next(tokens)
    first = now(decoder)
    for _ in range(new):
        next(tokens)
    return Timing(first - began, now(decoder) - first)


def now(decoder: Decoder) -> float:
    """Seconds, once the device has done all that it was asked to."""
    if decoder.device.type != "cpu":
        torch.accelerator.synchronize(decoder.device)
    return time.perf_counter()


def _rates(timings: dict[int, list[Timing]], prompt: int, new: int) -> dict[str, Any]:
    def rates(batch: int, tokens: int, seconds: list[float]) -> Rate:
        middle, low, high = _quartiles([batch * tokens / one for one in seconds])
        return Rate(tokens_per_second=middle, low=low, high=high)

    return {
        "prefill": {str(batch): rates(batch, prompt, [one.prefill for one in rows]) for batch, rows in timings.items()},
        "decode": {str(batch): rates(batch, new, [one.decode for one in rows]) for batch, rows in timings.items()},
        "first_token_seconds": _spread([one.prefill for one in timings[1]]),
    }


def _ratios(dense: dict[int, list[Timing]], compressed: dict[int, list[Timing]]) -> dict[str, dict[str, Spread]]:
    """How many times faster the compressed model is, from neighbours in time."""
    pairs = {batch: list(zip(dense[batch], compressed[batch], strict=True)) for batch in dense}
    return {
        "prefill": {str(batch): _spread([a.prefill / b.prefill for a, b in rows]) for batch, rows in pairs.items()},
        "decode": {str(batch): _spread([a.decode / b.decode for a, b in rows]) for batch, rows in pairs.items()},
    }


def _ideals(
    dense: Decoder, compressed: Decoder, prompt: int, new: int, ratios: dict[str, dict[str, Spread]]
) -> dict[str, dict[str, Ideal]]:
    reading = prefill_cost(dense, prompt) / prefill_cost(compressed, prompt)
    ideals: dict[str, dict[str, float]] = {"prefill": {}, "decode": {}}
    for batch in _BATCHES:
        costs = [decode_cost(decoder, batch, prompt, new) for decoder in (dense, compressed)]
        ideals["prefill"][str(batch)] = reading
        ideals["decode"][str(batch)] = costs[0] / costs[1]
    return {
        part: {batch: Ideal(ratio=ideal, share=ratios[part][batch].median / ideal) for batch, ideal in rows.items()}
        for part, rows in ideals.items()
    }


def _spread(values: list[float]) -> Spread:
    middle, low, high = _quartiles(values)
    return Spread(median=middle, low=low, high=high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    """(the median, the quartiles around it)"""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high
