"""Whether a model can be asked the items of its tasks, seen from their tokens before anything is run."""

from __future__ import annotations

from typing import Any

from lowrise.errors import TaskError
from lowrise.measure.harness import Harness
from lowrise.measure.tasks import TaskSet
from lowrise.model.decoder import Decoder
from lowrise.settings import Bos


def check_askable(decoder: Decoder, tokenizer: Any, bos: Bos, tasks: TaskSet) -> None:
    """Raises TaskError, naming task and item, where lm-eval could not score what is asked.

    That is: no BOS or EOS to stand for an empty context; an option that has no token of its own, since it is empty or
    merges with its context; one longer than the model's positions; tokens that the model cannot embed.
    """
    rows = decoder.model.get_input_embeddings().weight.shape[0]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None or start >= rows:
        found = "none" if start is None else f"token {start}, and the model can embed those below {rows}"
        remedy = "measure without --tasks, or give the tokenizer one"
        raise TaskError("--tasks", "a tokenizer with a BOS or an EOS token, as lm-eval needs one", found, remedy)
    lm = Harness(decoder, tokenizer, bos)
    for loaded in {leaf.name: leaf for leaves in tasks.leaves.values() for leaf in leaves}.values():
        for instance in loaded.task.instances:
            misfit = _misfit(lm, instance, rows)
            if misfit is not None:
                where = f"--tasks: {loaded.name}, item {instance.doc_id}"
                raise TaskError(where, *misfit, "mend the item, or leave the task out")


def _misfit(lm: Harness, instance: Any, rows: int) -> tuple[str, str] | None:
    """(expected, found) of what cannot be, if anything, of one request as lm-eval makes tokens of it."""
    context, *more = instance.args
    tokens: list[int]
    if instance.request_type == "loglikelihood":
        tokens, own = _pair(lm, context, more[0])
        if not own:
            return "an option with a token of its own", f"none of {more[0]!r} behind its context"
        if len(own) > lm.max_length:
            return f"options that the model's {lm.max_length} positions can hold", f"one of {len(own)} tokens"
        tokens = [*tokens, *own]
    else:
        tokens = lm.tok_encode(context)
    if instance.request_type == "generate_until":
        room = more[0].get("max_gen_toks", lm.max_gen_toks)
        if room >= lm.max_length:
            return f"fewer tokens to write than the model's {lm.max_length} positions", f"{room}"
        if lm.tokenizer.eos_token_id is None:
            return "a tokenizer with an EOS token, at which writing ends", "none"
    largest = max(tokens, default=0)
    return (f"tokens below {rows}, which the model can embed", f"token {largest}") if largest >= rows else None


def _pair(lm: Harness, context: str, option: str) -> tuple[list[int], list[int]]:
    """What lm-eval gives to read, and what it scores."""
    if context:
        before, own = lm._encode_pair(context, option)
        return list(before), list(own)
    own = lm.tok_encode(option, add_special_tokens=False)
    return (own[:1], own[1:]) if own[:1] == [lm.prefix_token_id] else ([lm.prefix_token_id], own)
