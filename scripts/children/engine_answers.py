"""What an engine answers, as a child of scripts/engines.py, in an environment of its own.

A request as JSON on stdin: {"folder", "prompts": lists of token ids, "tokens": to write, "top": likeliest tokens to
tell}. On the last line of stdout {"version", "answers": [{"tokens", "first": {token: log-probability}}]}.

python scripts/children/engine_answers.py transformers|vllm|mlx
"""

from __future__ import annotations

import json
import sys
from typing import Any


def transformers(request: dict[str, Any]) -> dict[str, Any]:
    """Of either version: what this file uses is the same in both."""
    import torch
    import transformers as library
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # an end of text is a token as any other
    answers = []
    with torch.no_grad():
        for prompt in request["prompts"]:
            ids = torch.tensor([prompt])
            known = torch.log_softmax(model(ids).logits[0, -1].float(), dim=-1)
            top = known.topk(request["top"])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request["tokens"],
                do_sample=False,
                pad_token_id=0,
            )
            first = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            answers.append({"tokens": out[0, ids.shape[1] :].tolist(), "first": first})
    return {"version": f"transformers {library.__version__}", "answers": answers}


def vllm(request: dict[str, Any]) -> dict[str, Any]:
    import vllm as library

    engine = library.LLM(
        request["folder"],
        dtype="float32",
        max_model_len=256,
        max_logprobs=request["top"],
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 29,
    )
    settings = library.SamplingParams(
        temperature=0.0, max_tokens=request["tokens"], logprobs=request["top"], ignore_eos=True
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    answers = []
    for found in engine.generate(prompts, settings, use_tqdm=False):
        written = found.outputs[0]
        first = {token: one.logprob for token, one in written.logprobs[0].items()}
        answers.append({"tokens": [*written.token_ids], "first": first})
    return {"version": f"vllm {library.__version__}", "answers": answers}


def mlx(request: dict[str, Any]) -> dict[str, Any]:
    """By the model class of mlx-lm that a folder names, in the number format of its weights."""
    from pathlib import Path

    import mlx.core as mx
    import mlx_lm
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(request["folder"]))
    answers = []
    for prompt in request["prompts"]:
        tokens: list[int] = []
        first: dict[int, float] = {}
        for token, known in generate_step(mx.array(prompt), model, max_tokens=request["tokens"]):
            if not tokens:
                known = known.astype(mx.float32)
                first = {i: known[i].item() for i in mx.argsort(-known)[: request["top"]].tolist()}
            tokens.append(int(token))
        answers.append({"tokens": tokens, "first": first})
    return {"version": f"mlx-lm {mlx_lm.__version__} on mlx {mx.__version__}", "answers": answers}


if __name__ == "__main__":
    found = {"transformers": transformers, "vllm": vllm, "mlx": mlx}[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(found))
