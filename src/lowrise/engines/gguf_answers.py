"""What llama.cpp answers from a GGUF file against what transformers does from the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lowrise.engines.llama_cpp import PROMPTS, Answer, EngineError, ask
from lowrise.errors import ModelError
from lowrise.model.source import OpenModel

TOKENS = 64

# How far the first log-probability of the likeliest token may be off, on average, where both read the same model. With
# quantised matrices llama.cpp rounds what they are multiplied with, and with float16 ones too.
_ROUNDED, _EXACT = 0.2, 0.01


@dataclass(frozen=True)
class Compared:
    """engine: its version. prompts, tokens: what was compared. equal: greedy tokens up to the first difference of each
    answer. texts_equal: answers that are equal to their end. parted: of each other answer, how much likelier the token
    that transformers takes is there than the one that the engine takes, natural log: little, where it is a tie.
    first, first_largest: by how much the log-probability of the likeliest token behind a prompt differs, on average and
    at most. tokenized_equal: prompts that both turn into the same tokens.
    """

    engine: str
    prompts: int
    tokens: int
    equal: int
    texts_equal: int
    parted: list[float]
    first: float
    first_largest: float
    tokenized_equal: int


def compare_answers(file: Path, opened: OpenModel, exact: bool, on_base: Callable[[], None]) -> Compared:
    """opened: the file as transformers opens it, in float32. exact: whether all matrices are in float32.

    on_base: raises EngineError where llama.cpp does not open the base file either. Raises ModelError where it opens
    that but not this, or answers otherwise.
    """
    texts = [text for text in PROMPTS if opened.tokenizer(text).input_ids]
    prompts = [list(opened.tokenizer(text).input_ids) for text in texts]
    try:
        found = ask(file, prompts, TOKENS, texts)
    except EngineError as error:
        on_base()
        reason = str(error).rpartition(": ")[2]
        raise ModelError(opened.record.source, "a file that llama.cpp opens", reason, "use --converter") from error
    ours = [_followed(opened.model, prompt, one) for prompt, one in zip(prompts, found.answers, strict=True)]
    gaps = [abs(one.first) for one in ours if one.first is not None]
    compared = Compared(
        engine=found.version,
        prompts=len(prompts),
        tokens=sum(len(one.tokens) for one in found.answers),
        equal=sum(one.equal for one in ours),
        texts_equal=sum(one.parted is None for one in ours),
        parted=[one.parted for one in ours if one.parted is not None],
        first=fmean(gaps) if gaps else 0.0,
        first_largest=max(gaps, default=0.0),
        tokenized_equal=sum(own == other for own, other in zip(prompts, found.tokenized, strict=True)),
    )
    if compared.first > (_EXACT if exact else _ROUNDED):
        expected = "answers of llama.cpp like those of transformers from the same file"
        first = f"first log-probabilities that differ by {compared.first:.2g}"
        raise ModelError(opened.record.source, expected, first, "cut it with --for llama.cpp")
    return compared


@dataclass(frozen=True)
class _Followed:
    """One answer of the engine, as transformers sees it. equal, parted: as of `Compared`.

    first: of the likeliest token behind the prompt, with its sign; None: the engine does not tell it.
    """

    equal: int
    parted: float | None
    first: float | None


@torch.no_grad()
def _followed(model: Any, prompt: list[int], theirs: Answer) -> _Followed:
    """Greedily, as long as the engine's tokens are the likeliest here too."""
    ids, cache = torch.tensor([prompt]), None
    first: float | None = None
    for step, token in enumerate(theirs.tokens):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        known = torch.log_softmax(out.logits[0, -1].float(), dim=-1)
        if step == 0 and theirs.first:
            likeliest = max(theirs.first, key=lambda one: theirs.first[one])
            first = float(known[likeliest]) - theirs.first[likeliest]
        if int(known.argmax()) != token:
            return _Followed(step, float(known.max() - known[token]), first)
        next_id = torch.tensor([[token]])
        ids = next_id if cache is not None else torch.cat([ids, next_id], dim=1)
    return _Followed(len(theirs.tokens), None, first)
