"""Trains a small model of each family from nothing, so that what is then chosen and repaired is trained layers.

    python benchmarks/train_small.py FAMILY [FAMILY ...] --text A.txt --text B.txt --out DIR
        [--layers 12] [--width 128] [--vocabulary 2048] [--rows 16] [--window 256] [--minutes 40 | --tokens N]
        [--seed 0]
        [--presets streamline-none refit laco-mean] [--remove 2]

FAMILY is a model type of transformers (gpt2, qwen3, olmo2, gemma2 …), a multimodal one too (gemma3, whose text is
trained, beside a small vision tower that is not). The tokenizer is a byte-level BPE of the same text; the last
twentieth of each file is held out. Each model lies in DIR/FAMILY then. It is cut by every preset, saved, and read
again, and the table says the held-out perplexity before and after, or why it was refused; first, that of tokens
drawn by how often they occur (`unigram`), which is what a model that has learned nothing of their order reaches.
`--presets` alone cuts nothing: then, say, `lowrise compare DIR/FAMILY --presets refit,replaceme …`.

One of each kind: lfm2 (hybrid: three layers of four convolutions), qwen3_moe (three of four mixtures of experts),
glm4_moe and deepseek_v3 (all layers but the first two mixtures), gemma4_text and gemma3n_text (the last three of eight
layers take keys and values of others, and every layer has embeddings of its own), gemma3 (multimodal).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

import lowrise
from lowrise.errors import LowriseError
from lowrise.model.wrappers import auto_class

ROWS, WINDOW, PEAK, WARM = 16, 256, 2e-3, 0.03
SAMPLES = 64  # calibration windows of a cut
HEAD = 64


def _types(every: int, others: str) -> Callable[[int, int], dict[str, Any]]:
    """One of `every` layers, the last of each round, sees all tokens."""
    return lambda layers, _: {
        "layer_types": ["full_attention" if layer % every == every - 1 else others for layer in range(layers)]
    }


def _periodic(layers: int, width: int) -> dict[str, Any]:
    """Three layers of four mixtures of eight experts, two for each token."""
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": width}
    return {**experts, "mlp_only_layers": list(range(3, layers, 4))}


def _boundary(_: int, width: int) -> dict[str, Any]:
    """All layers but the first two, likewise."""
    groups = {"first_k_dense_replace": 2, "n_group": 1, "topk_group": 1}
    return {**groups, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": width}


def _latent(layers: int, width: int) -> dict[str, Any]:
    """With attention over a common space of keys and values."""
    sizes = {"q_lora_rank": None, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 48, "v_head_dim": 64}
    return _boundary(layers, width) | sizes | {"head_dim": 16}


def _sharing(layers: int, width: int) -> dict[str, Any]:
    """Every fourth layer sees all tokens; the last three of eight take keys and values of the last of their kind before
    them, and embeddings are made for every layer, each of a quarter of the width.
    """
    shared = {"num_kv_shared_layers": layers * 3 // 8, "hidden_size_per_layer_input": width // 4}
    return _types(4, "sliding_attention")(layers, width) | {"sliding_window": 64} | shared


def _wider_heads(layers: int, width: int) -> dict[str, Any]:
    """With heads of twice the size in the layers that see all tokens."""
    return _sharing(layers, width) | {"global_head_dim": 2 * HEAD}


def _several_streams(layers: int, width: int) -> dict[str, Any]:
    """With four streams, of which a layer reads one."""
    return _sharing(layers, width) | {"laurel_rank": 16, "activation_sparsity_pattern": [0.0] * layers}


# What a family needs beside sizes, of so many layers and that width.
SPECIAL: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "lfm2": _types(4, "conv"),
    "qwen3_moe": _periodic,
    "glm4_moe": _boundary,
    "deepseek_v3": _latent,
    "gemma4_text": _wider_heads,
    "gemma3n_text": _several_streams,
}
TOWER = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
# The text of a multimodal family, and what else it is made of.
MULTIMODAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8}, "mm_tokens_per_image": 4})
}


def tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        (line for text in texts for line in text.splitlines()),
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def settings(family: str, layers: int, width: int, vocabulary: int) -> Any:
    """The config of a small text model. Heads of 64; a gated MLP has 8/3 of the width, any other 4."""
    heads = max(1, width // HEAD)
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "tie_word_embeddings": True,
    }
    default = AutoConfig.for_model(family)
    known = {*default.to_dict(), *default.attribute_map}
    gated = 4 * width if family == "gpt_neox" else int(width * 8 / 3 / 64) * 64
    several = isinstance(default.to_dict().get("intermediate_size"), list)
    own: dict[str, Any] = {
        "num_key_value_heads": heads,
        "head_dim": HEAD,
        "query_pre_attn_scalar": HEAD,
        "intermediate_size": [gated] * layers if several else gated,
        "vocab_size_per_layer_input": vocabulary,
    }
    special = SPECIAL[family](layers, width) if family in SPECIAL else {}
    return AutoConfig.for_model(family, **{**sizes, **{name: own[name] for name in own if name in known}, **special})


def small(family: str, layers: int, width: int, vocabulary: int) -> Any:
    text, others = MULTIMODAL.get(family, (family, None))
    config = settings(text, layers, width, vocabulary)
    if others is not None:
        config = AutoConfig.for_model(family, text_config=config.to_dict(), **others)
    return auto_class(config).from_config(config)


def rate(done: float) -> float:
    """The share of the peak when `done` of the time is over."""
    return min(1.0, done / WARM) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def train(model: torch.nn.Module, ids: torch.Tensor, batch: int, window: int, seconds: float, most: int | None) -> int:
    """Adam with a cosine over `seconds`, or over `most` tokens where they are given; the number of tokens seen.

    batch: rows of a step, of `window` tokens each.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95))
    started, seen = time.perf_counter(), 0
    while (done := seen / most if most else (time.perf_counter() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate(done)
        starts = torch.randint(len(ids) - window, (batch,)).tolist()
        rows = torch.stack([ids[start : start + window] for start in starts])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += rows.numel()
        if seen // rows.numel() % 100 == 0:
            print(f"{done:5.0%}  {seen:>10,} tokens  loss {loss.item():.3f}", flush=True)
    return seen


@torch.no_grad()
def perplexity(model: Any, held: torch.Tensor, window: int) -> float:
    """Over windows of the held-out tokens, the last partial one dropped."""
    rows = held[: len(held) // window * window].view(-1, window)
    loss = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(ROWS)) / len(rows)
    return math.exp(loss)


def unigram(ids: torch.Tensor, held: torch.Tensor, vocabulary: int) -> float:
    """Perplexity of the held-out tokens by how often each of `vocabulary` occurs in `ids`, one more for each."""
    counts = torch.bincount(ids, minlength=vocabulary).double() + 1
    return float((-(counts / counts.sum()).log()[held].mean()).exp())


def cut(
    folder: Path, preset: str, remove: int, texts: list[Path], held: torch.Tensor, window: int
) -> tuple[str, str, str]:
    """(layers, perplexity, what goes) of the model in `folder` after `preset`, or why there is none."""
    try:
        model = lowrise.open(folder, device="cpu")
        before = model.layers
        how: dict[str, Any] = {"preset": preset, "remove": remove, "text": texts, "length": window, "samples": SAMPLES}
        plan = lowrise.plan(model, **how)
        lowrise.apply(model, plan, text=texts)
        model.save(folder.parent / f"{folder.name}-{preset}", force=True)
        again = lowrise.open(folder.parent / f"{folder.name}-{preset}", device="cpu")
    except LowriseError as error:
        return "", "refused", str(error)
    gone = ", ".join(f"{edit.kind} {edit.start}–{edit.stop - 1}" for edit in plan.edits)
    return f"{before} → {again.layers}", f"{perplexity(again.hf_model, held, window):.2f}", gone


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("family", nargs="+")
    options.add_argument("--text", action="append", required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=40)
    options.add_argument("--tokens", type=int, help="train on so many, however long it takes")
    options.add_argument("--presets", nargs="*", default=["streamline-none", "refit", "laco-mean"])
    sizes = {"layers": 12, "width": 128, "vocabulary": 2048, "rows": ROWS, "window": WINDOW, "seed": 0, "remove": 2}
    for name, value in sizes.items():
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in asked.text]
    parts = [(text[: len(text) * 19 // 20], text[len(text) * 19 // 20 :]) for text in texts]
    seen = [asked.out / f"trained-on-{number}.txt" for number in range(len(parts))]
    for file, (part, _) in zip(seen, parts, strict=True):
        file.write_text(part, encoding="utf-8")
    words = tokenizer([part for part, _ in parts], asked.vocabulary)
    ids, held = (
        torch.cat([torch.tensor(words.backend_tokenizer.encode(part).ids) for part in half])
        for half in zip(*parts, strict=True)
    )
    order = unigram(ids, held, asked.vocabulary)
    rows = []
    for family in asked.family:
        torch.manual_seed(asked.seed)
        model = small(family, asked.layers, asked.width, asked.vocabulary)
        count = sum(p.numel() for p in model.parameters())
        print(f"{family}: {count:,} parameters, {len(ids):,} tokens, {len(held):,} held out", flush=True)
        trained = train(model, ids, asked.rows, asked.window, 60 * asked.minutes, asked.tokens)
        before = perplexity(model.eval(), held, asked.window)
        print(f"{trained:,} tokens seen, held-out perplexity {before:.2f}", flush=True)
        model.save_pretrained(asked.out / family)
        words.save_pretrained(asked.out / family)
        for preset in asked.presets:
            layers, after, what = cut(asked.out / family, preset, asked.remove, seen, held, asked.window)
            rows.append([family, f"{count:,}", preset, layers, f"{order:.2f}", f"{before:.2f}", after, what])
            print(*rows[-1], sep=" | ", flush=True)
    if rows:
        print(table(["family", "parameters", "preset", "layers", "unigram", "before", "after", "what was done"], rows))


if __name__ == "__main__":
    main()
