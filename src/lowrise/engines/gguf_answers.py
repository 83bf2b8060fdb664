"""What llama.cpp answers from a GGUF file against what transformers does from the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lowrise.engines.llama_cpp import Answer, EngineError, ask
from lowrise.errors import ModelError
from lowrise.model.source import OpenModel

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little",
    "To make a good cup of tea, first",
    "The three primary colours are",
    "In 1969, for the first time,",
)
TOKENS = 64

# How far the first log-probability of the likeliest token may be off, on average, where both read the same model. With
# quantised matrices llama.cpp rounds what they are multiplied with, and with float16 ones too.
_ROUNDED, _EXACT = 0.2, 0.01


@dataclass(frozen=True)
class Compared:
    """engine: its version. prompts, tokens: what was compared. equal: greedy tokens up to the first difference of each
    answer. texts_equal: answers that are equal to their end. first, first_largest: by how much the log-probability of
    the likeliest token behind a prompt differs, natural log, on average and at most. tokenized_equal: prompts that both
    turn into the same tokens.
    """

    engine: str
    prompts: int
    tokens: int
    equal: int
    texts_equal: int
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
    ours = [
        _greedy(opened.model, prompt, TOKENS, one.first) for prompt, one in zip(prompts, found.answers, strict=True)
    ]
    equal = [_equal(own.tokens, other) for own, other in zip(ours, found.answers, strict=True)]
    gaps = [_gap(own, other) for own, other in zip(ours, found.answers, strict=True)]
    compared = Compared(
        engine=found.version,
        prompts=len(prompts),
        tokens=sum(len(one.tokens) for one in found.answers),
        equal=sum(equal),
        texts_equal=sum(count == len(one.tokens) for count, one in zip(equal, found.answers, strict=True)),
        first=fmean(gaps) if gaps else 0.0,
        first_largest=max(gaps, default=0.0),
        tokenized_equal=sum(own == other for own, other in zip(prompts, found.tokenized, strict=True)),
    )
    if compared.first > (_EXACT if exact else _ROUNDED):
        expected = "answers of llama.cpp like those of transformers from the same file"
        first = f"first log-probabilities that differ by {compared.first:.2g}"
        raise ModelError(opened.record.source, expected, first, "cut it with --for llama.cpp")
    return compared


@torch.no_grad()
def _greedy(model: Any, prompt: list[int], tokens: int, wanted: dict[int, float]) -> Answer:
    """wanted: tokens whose log-probabilities behind the prompt are told."""
    ids, cache, written = torch.tensor([prompt]), None, []
    first: dict[int, float] = {}
    for step in range(tokens):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        logits = out.logits[0, -1].float()
        if step == 0:
            known = torch.log_softmax(logits, dim=-1)
            first = {token: float(known[token]) for token in wanted}
        written.append(int(logits.argmax()))
        next_id = torch.tensor([[written[-1]]])
        ids = next_id if cache is not None else torch.cat([ids, next_id], dim=1)
    return Answer(written, first)


def _gap(ours: Answer, theirs: Answer) -> float:
    likeliest = max(theirs.first, key=lambda token: theirs.first[token])
    return abs(ours.first[likeliest] - theirs.first[likeliest])


def _equal(ours: list[int], theirs: Answer) -> int:
    """Tokens of theirs in front of the first that is another one. Ours goes on where theirs ends itself."""
    pairs = zip(ours, theirs.tokens, strict=False)
    return next((n for n, (own, other) in enumerate(pairs) if own != other), len(theirs.tokens))
