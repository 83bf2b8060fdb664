"""Trains a small model of a family from nothing: what is then chosen and repaired is trained layers, not random ones.

    python benchmarks/train_small.py FAMILY --text A.txt --text B.txt --out DIR
        [--layers 12] [--width 128] [--vocabulary 2048] [--minutes 40] [--seed 0]

FAMILY is a model type of transformers (gpt2, qwen3, olmo2, gemma2 …). The tokenizer is a byte-level BPE of the same
text; the last twentieth of each file is held out. Then, say, `lowrise compare DIR --presets refit,replaceme …`.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WINDOW, ROWS, PEAK, WARM = 256, 16, 2e-3, 0.03


def tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        (line for text in texts for line in text.splitlines()),
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def small(family: str, layers: int, width: int, vocabulary: int) -> torch.nn.Module:
    """Heads of 64; a gated MLP has 8/3 of the width, any other 4."""
    heads = max(1, width // 64)
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    for name, value in {"num_key_value_heads": heads, "head_dim": 64, "query_pre_attn_scalar": 64}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if hasattr(config, "intermediate_size"):
        config.intermediate_size = 4 * width if family == "gpt_neox" else int(width * 8 / 3 / 64) * 64
    made: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return made


def rate(done: float) -> float:
    """The share of the peak when `done` of the time is over."""
    return min(1.0, done / WARM) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def train(model: torch.nn.Module, ids: torch.Tensor, seconds: float) -> int:
    """Adam with a cosine over `seconds`; the number of tokens seen."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95))
    started, seen = time.perf_counter(), 0
    while (done := (time.perf_counter() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate(done)
        starts = torch.randint(len(ids) - WINDOW, (ROWS,)).tolist()
        rows = torch.stack([ids[start : start + WINDOW] for start in starts])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += rows.numel()
        if seen // rows.numel() % 50 == 0:
            print(f"{done:5.0%}  {seen:>10,} tokens  loss {loss.item():.3f}", flush=True)
    return seen


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("family")
    options.add_argument("--text", action="append", required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=40)
    for name, value in {"layers": 12, "width": 128, "vocabulary": 2048, "seed": 0}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    torch.manual_seed(asked.seed)
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in asked.text]
    cuts = [len(text) * 19 // 20 for text in texts]
    words = tokenizer([text[:cut] for text, cut in zip(texts, cuts, strict=True)], asked.vocabulary)
    ids, held = (
        torch.cat([torch.tensor(words.backend_tokenizer.encode(part).ids) for part in parts])
        for parts in zip(*((text[:cut], text[cut:]) for text, cut in zip(texts, cuts, strict=True)), strict=True)
    )
    model = small(asked.family, asked.layers, asked.width, asked.vocabulary)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(ids):,} tokens, {len(held):,} held out")
    seen = train(model, ids, 60 * asked.minutes)
    model.eval()
    with torch.no_grad():
        rows = held[: len(held) // WINDOW * WINDOW].view(-1, WINDOW)
        loss = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(ROWS)) / len(rows)
    print(f"{seen:,} tokens seen, held-out perplexity {math.exp(loss):.2f}")
    model.save_pretrained(asked.out)  # type: ignore[operator]
    words.save_pretrained(asked.out)


if __name__ == "__main__":
    main()
