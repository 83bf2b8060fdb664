"""Whether a model can be asked the items of its tasks, seen from their tokens before anything is run."""

from __future__ import annotations

from typing import Any

from lowrise.errors import TaskError
from lowrise.measure.harness import Harness
from lowrise.measure.tasks import TaskSet
from lowrise.model.decoder import Decoder
from lowrise.recipe import Bos


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
    lm = _Asked(decoder, tokenizer, bos)
    for loaded in {leaf.name: leaf for leaves in tasks.leaves.values() for leaf in leaves}.values():
        for instance in loaded.task.instances:
            where = f"--tasks: {loaded.name}, item {instance.doc_id}"
            for found, expected in lm.misfits(instance, rows)[:1]:
                raise TaskError(where, expected, found, "mend the item, or leave the task out")


class _Asked(Harness):
    """Tokenises as lm-eval does, and runs nothing."""

    def misfits(self, instance: Any, rows: int) -> list[tuple[str, str]]:
        """(found, expected) of everything about one request that cannot be."""
        if instance.request_type == "loglikelihood":
            context, option = instance.args
            if context == "" and not self.tok_encode(option, add_special_tokens=False):
                return [(f"none of {option!r}", "an option with a token of its own")]
            ((_, before, own),) = self.loglikelihood([instance], disable_tqdm=True)
            if not own:
                return [(f"none of {option!r} behind its context", "an option with a token of its own")]
            if len(own) > self.max_length:
                return [(f"one of {len(own)} tokens", f"options that the model's {self.max_length} positions can hold")]
            return self._unknown([*before, *own], rows)
        if instance.request_type == "generate_until":
            room = instance.args[1].get("max_gen_toks", self.max_gen_toks)
            if room >= self.max_length:
                return [(f"{room}", f"fewer tokens to write than the model's {self.max_length} positions")]
            if self.tokenizer.eos_token_id is None:
                return [("none", "a tokenizer with an EOS token, at which the model ends")]
        return self._unknown(self.tok_encode(instance.args[0]), rows)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, override_bs: Any = None) -> Any:
        return requests

    def _unknown(self, tokens: list[int], rows: int) -> list[tuple[str, str]]:
        largest = max(tokens, default=0)
        return [(f"token {largest}", f"tokens below {rows}, which the model can embed")] if largest >= rows else []
