"""A shallow model as the draft of its dense one: speculative decoding, greedily, by transformers' assisted generation.

The draft writes γ tokens, the dense model reads them in one pass and keeps those that it would have written itself, and
one of its own. Leviathan et al. (https://arxiv.org/abs/2211.17192), with α the chance that a token is accepted and c
what a pass of the draft costs in passes of the dense model: a round gives (1 - α^(γ+1)) / (1 - α) tokens on average
(equation 1) and costs γc + 1 passes, which is so many times faster (theorem 3.8). Some γ is faster where c < α, and
none else (corollary 3.9). It takes a pass over γ + 1 tokens to be as fast as one over a single token, which holds where
reading the weights is what takes the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from lowrise.calibration.written import end_tokens
from lowrise.errors import ModelError, reason
from lowrise.measure.layer_time import decode_times
from lowrise.measure.speed import now
from lowrise.model.batching import is_out_of_memory
from lowrise.model.decoder import Decoder
from lowrise.model.source import silenced_transformers
from lowrise.progress import Reporter
from lowrise.results import Draft

LENGTH = 5  # γ
NEW_TOKENS = 48
_LENGTHS = range(1, 17)  # γ that the best one is looked for among


@dataclass
class _Rounds(BaseStreamer):  # type: ignore[misc]
    """Listens to one generation: tokens that each round gave, and that the draft wrote for it."""

    given: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    prompt_came: bool = False
    _passes: int = 0  # of the draft, since the last round

    def put(self, value: Tensor) -> None:
        if not self.prompt_came:
            self.prompt_came = True
            return
        self.given.append(value.numel())
        self.drafted.append(self._passes)
        self._passes = 0

    def end(self) -> None:
        """Nothing is held back."""

    def count_pass(self, *_: Any) -> None:
        """A forward hook of the draft, which writes a token a pass."""
        self._passes += 1


@dataclass
class _Counts:
    """Sums over prompts. refused: rounds in which a drafted token was; seconds: alone, and with the draft."""

    equal: int = 0
    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    refused: int = 0
    alone: float = 0.0
    alone_tokens: int = 0
    assisted: float = 0.0

    def add(self, rounds: _Rounds, ended: bool) -> None:
        """ended: whether the text did, whose last token is then no refusal of what was drafted."""
        kept = [min(given - 1, drafted) for given, drafted in zip(rounds.given, rounds.drafted, strict=True)]
        short = [one < drafted for one, drafted in zip(kept, rounds.drafted, strict=True)]
        self.rounds += len(kept)
        self.drafted += sum(rounds.drafted)
        self.accepted += sum(kept)
        self.refused += sum(short[:-1] if ended else short)


@torch.no_grad()
def measure_draft(
    draft: Decoder, dense: Decoder, tokenizer: Any, prompts: list[Tensor], name: str, progress: Reporter
) -> Draft:
    """prompts: (1, tokens) each, on the CPU. name: of the dense model. Both models are left as they were.

    What the dense model writes alone and with the draft is timed in turn, prompt by prompt, after a first one that is
    not counted. Raises ModelError for models that assisted generation does not take.
    """
    counts, room = _Counts(), min(draft.max_length, dense.max_length)
    ends = end_tokens(dense, tokenizer)
    with _plainly(draft), _plainly(dense), silenced_transformers(), progress.bar("drafting", 1 + len(prompts)) as bar:
        for number, prompt in enumerate([prompts[0], *prompts]):
            new = min(NEW_TOKENS, room - prompt.shape[1])
            how = _greedily(new, ends)
            ids = prompt.to(dense.device)
            began = now(dense)
            alone = dense.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
            between, rounds = now(dense), _Rounds()
            assisted = _assisted(draft, dense, ids, how, rounds)
            ended = now(dense)
            bar.advance(2 * new, "dense and drafted")
            if number == 0:  # to warm up
                continue
            written = assisted[0, ids.shape[1] :].tolist()
            counts.equal += bool(torch.equal(alone, assisted))
            counts.tokens += len(written)
            counts.alone_tokens += alone.shape[1] - ids.shape[1]
            counts.alone += between - began
            counts.assisted += ended - between
            counts.add(rounds, written[-1] in ends)
    times = [decode_times(decoder, progress) for decoder in (draft, dense)]
    return _found(counts, times, draft, dense, len(prompts), name)


def expected_tokens(chance: float, length: int) -> float:
    """Of a round (equation 1): 1 + α + … + α^γ."""
    return math.fsum(chance**power for power in range(length + 1))


def speed_up(chance: float, length: int, cost: float) -> float:
    """How many times faster with a draft (theorem 3.8)."""
    return expected_tokens(chance, length) / (length * cost + 1)


def break_even(chance: float, length: int) -> float:
    """The cost c of a pass of the draft below which γ of them are faster than none."""
    return (expected_tokens(chance, length) - 1) / length


def _found(
    counts: _Counts,
    times: list[tuple[float, float]],
    draft: Decoder,
    dense: Decoder,
    prompts: int,
    name: str,
) -> Draft:
    """times: seconds of a layer and of the rest, of the draft and of the dense model."""
    (layer_of_draft, rest_of_draft), (layer, rest) = times
    whole = rest + len(dense) * layer
    cost = (rest_of_draft + len(draft) * layer_of_draft) / whole
    looked_at = counts.accepted + counts.refused
    chance = counts.accepted / looked_at if looked_at else None
    best = None if chance is None else max(_LENGTHS, key=lambda length: speed_up(chance, length, cost))
    most = 0 if chance is None else math.ceil((chance * whole - rest) / layer) - 1  # layers of a c below α
    return Draft(
        dense=name,
        prompts=prompts,
        equal=counts.equal,
        tokens=counts.tokens,
        length=LENGTH,
        rounds=counts.rounds,
        drafted=counts.drafted,
        accepted=counts.accepted,
        chance=chance,
        cost=cost,
        dense_tokens_per_second=counts.alone_tokens / counts.alone,
        tokens_per_second=counts.tokens / counts.assisted,
        expected=None if chance is None else speed_up(chance, LENGTH, cost),
        best=None if chance is None or best is None else speed_up(chance, best, cost),
        best_length=best,
        break_even=None if chance is None else break_even(chance, LENGTH),
        layers=len(draft),
        layers_break_even=min(most, len(dense)) if most > 0 else None,
    )


def _assisted(draft: Decoder, dense: Decoder, ids: Tensor, how: GenerationConfig, rounds: _Rounds) -> Tensor:
    """(1, tokens): the prompt, and what stands behind it."""
    hook = draft.model.register_forward_hook(rounds.count_pass)
    try:
        found = dense.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=how,
            assistant_model=draft.model,
            streamer=rounds,
        )
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        expected = "two models that transformers' assisted generation takes"
        raise ModelError("--draft-for", expected, reason(error), "leave --draft-for out") from error
    finally:
        hook.remove()
    assert isinstance(found, Tensor)
    return found


def _greedily(new: int, ends: list[int]) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
    )


@contextmanager
def _plainly(decoder: Decoder) -> Iterator[None]:
    """Without the model's own settings of generation, penalties among them; γ tokens a round where it is a draft."""
    before = decoder.model.generation_config
    decoder.model.generation_config = GenerationConfig(
        num_assistant_tokens=LENGTH, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    try:
        yield
    finally:
        decoder.model.generation_config = before
