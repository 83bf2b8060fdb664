"""What a model writes greedily, and how far another one goes along with it. Depth cuts break generation first.

Prompts are beginnings of windows of the evaluation texts and, where the tokenizer has a chat template, a few fixed
questions. The dense model continues them. Of the other model it is then asked, at every token of that continuation,
whether its likeliest token is the same (teacher-forced: it reads what the dense model wrote, not its own). Up to the
first that is not, both write the same. Repetition is counted in what each model writes itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.calibration.chat import rendered
from lowrise.calibration.prefix import encode
from lowrise.calibration.written import end_tokens
from lowrise.errors import TextError
from lowrise.measure.generation import continued
from lowrise.measure.rows import rows_at_once
from lowrise.model.batching import joined_rows
from lowrise.model.decoder import Decoder

PROMPTS = 8  # of the texts, in all
PROMPT_TOKENS = 64
NEW_TOKENS = 64
QUESTION_TOKENS = 32
QUESTIONS = (
    "What is the capital of France?",
    "A box holds 12 eggs. How many eggs are in 7 boxes? Explain step by step.",
    "Write a Python function that returns the largest number of a list.",
)
GRAM = 4  # tokens


@dataclass(frozen=True)
class Prompts:
    """texts: (prompts, tokens) batches. questions: (1, tokens) each."""

    texts: list[Tensor]
    questions: list[Tensor]

    @property
    def batches(self) -> list[Tensor]:
        return [*self.texts, *self.questions]

    def ids(self) -> list[list[int]]:
        """Prompt by prompt: what decides, with the model, what is written."""
        return [row for batch in self.batches for row in batch.tolist()]


def make_prompts(decoder: Decoder, tokenizer: Any, texts: Mapping[str, Windows]) -> Prompts:
    """About PROMPTS prompts, of evenly spaced windows of the first PROMPTS texts; and the questions.

    A prompt is half a window at most, so that there is room to go on. A question that the template or the model cannot
    take is left out.
    """
    chosen = [windows for windows in texts.values() if windows.length > 1][:PROMPTS]
    batches = [_beginnings(windows, PROMPTS // len(chosen)) for windows in chosen]
    joined = [
        torch.cat([batch for batch in batches if batch.shape[1] == tokens])
        for tokens in dict.fromkeys(batch.shape[1] for batch in batches)
    ]
    return Prompts([batch for batch in joined if batch.shape[1] < decoder.max_length], _questions(decoder, tokenizer))


def continuations(decoder: Decoder, tokenizer: Any, prompts: Prompts) -> list[list[int]]:
    """Prompt by prompt at most NEW_TOKENS tokens, QUESTION_TOKENS of a question, up to the one that ends the text."""
    asked = prompts.ids()
    texts = sum(map(len, prompts.texts))
    most = [NEW_TOKENS] * texts + [min(NEW_TOKENS, QUESTION_TOKENS)] * (len(asked) - texts)
    counts = [min(count, decoder.max_length - len(prompt)) for count, prompt in zip(most, asked, strict=True)]
    return continued(decoder, asked, counts, end_tokens(decoder, tokenizer))


@torch.no_grad()
def same_choices(decoder: Decoder, prompts: Prompts, written: list[list[int]]) -> list[list[bool]]:
    """Token by token of each continuation, whether the model's likeliest token at that place is the same.

    written: of another model, by prompt. One pass a batch, or several where its logits would take much memory; shorter
    continuations are filled up behind their end.
    """
    found, at = [], 0
    for batch in prompts.batches:
        rows = written[at : at + len(batch)]
        at += len(batch)
        longest = max(map(len, rows))
        filled = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows])
        ids = torch.cat([batch, filled], dim=1)[:, :-1].to(decoder.device)
        likeliest = [
            _likeliest(decoder, some, batch.shape[1] - 1) for some in ids.split(rows_at_once(decoder, ids.shape[1]))
        ]
        same = (torch.cat(likeliest) == filled).tolist()
        found += [one[: len(row)] for one, row in zip(same, rows, strict=True)]
    return found


def _likeliest(decoder: Decoder, ids: Tensor, first: int) -> Tensor:
    """Behind each position from `first` on of ids (batch, tokens), on the CPU."""

    def of(rows: slice) -> Tensor:
        logits: Tensor = decoder.model(input_ids=ids[rows], use_cache=False).logits
        return logits[:, first:].argmax(-1).cpu()

    return decoder.batching.in_parts(len(ids), ids.shape[1], of, joined_rows)


def agreement(same: Iterable[list[bool]]) -> float:
    """The share of all tokens."""
    every = [one for row in same for one in row]
    return sum(every) / len(every)


def until_difference(same: Iterable[list[bool]]) -> float:
    """Tokens before the first that differs, or all of them, the mean over prompts."""
    lengths = [row.index(False) if False in row else len(row) for row in same]
    return sum(lengths) / len(lengths)


def repetition(written: Iterable[list[int]]) -> float | None:
    """The share of all runs of GRAM tokens that stood in the same continuation before; None: none is that long."""
    count = repeated = 0
    for row in written:
        grams = [tuple(row[at : at + GRAM]) for at in range(len(row) - GRAM + 1)]
        count += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / count if count else None


def _beginnings(windows: Windows, count: int) -> Tensor:
    """(at most `count`, tokens) int64, of evenly spaced windows."""
    count = min(count, len(windows))
    places = [number * len(windows) // count for number in range(count)]
    return windows.ids[places, : min(PROMPT_TOKENS, windows.length // 2)]


def _questions(decoder: Decoder, tokenizer: Any) -> list[Tensor]:
    if not getattr(tokenizer, "chat_template", None):
        return []
    rows = decoder.model.get_input_embeddings().weight.shape[0]
    found = []
    for question in QUESTIONS:
        try:
            asked = [{"role": "user", "content": question}]
            text = rendered(tokenizer, asked, question, add_generation_prompt=True)
            ids = torch.tensor([encode(tokenizer, text, question, add_special_tokens=False)]).long()
        except TextError:
            continue
        if ids.numel() and int(ids.max()) < rows and ids.shape[1] < decoder.max_length:
            found.append(ids)
    return found
