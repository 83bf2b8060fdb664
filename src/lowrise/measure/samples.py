"""What a model writes: the same few prompts to the dense and the compressed one, so that a reader can look."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowrise.calibration.prefix import encode, leading_tokens
from lowrise.calibration.written import end_tokens
from lowrise.errors import TextError
from lowrise.measure.generation import continued
from lowrise.model.decoder import Decoder
from lowrise.results import Sample
from lowrise.settings import Bos

PROMPTS = ("The capital of France is", "Once upon a time, there was a little", "To make a good cup of tea, first")
NEW_TOKENS = 40


def continuations(decoder: Decoder, tokenizer: Any, bos: Bos = "auto") -> dict[str, str]:
    """Prompt → the next NEW_TOKENS tokens as text, greedily: always the likeliest token, until the model ends itself.

    Before the prompt stands what the tokenizer puts in front of a text, nothing behind it, and no chat template. A
    prompt that the model cannot read (no token, one without an embedding, no position left) is left out.
    """
    encoded = encoded_prompts(decoder, tokenizer, bos)
    if not encoded:
        return {}
    prompts = [ids[0].tolist() for ids in encoded.values()]
    counts = [min(NEW_TOKENS, decoder.max_length - len(prompt)) for prompt in prompts]
    rows = continued(decoder, prompts, counts, end_tokens(decoder, tokenizer))
    return {prompt: tokenizer.decode(row, skip_special_tokens=True) for prompt, row in zip(encoded, rows, strict=True)}


def encoded_prompts(decoder: Decoder, tokenizer: Any, bos: Bos = "auto") -> dict[str, Tensor]:
    """Prompt → (1, tokens) int64, of those that the model can read."""
    encoded = {}
    prefix = leading_tokens(tokenizer, bos)
    rows = decoder.model.get_input_embeddings().weight.shape[0]
    for prompt in PROMPTS:
        try:
            ids = torch.tensor([[*prefix, *encode(tokenizer, prompt, prompt, add_special_tokens=False)]]).long()
        except TextError:
            continue
        if ids.numel() and int(ids.max()) < rows and ids.shape[1] < decoder.max_length:
            encoded[prompt] = ids
    return encoded


def side_by_side(dense: dict[str, str], compressed: dict[str, str]) -> list[Sample]:
    """What results.json holds under `samples`."""
    return [
        Sample(prompt=prompt, dense=text, compressed=compressed[prompt])
        for prompt, text in dense.items()
        if prompt in compressed
    ]
