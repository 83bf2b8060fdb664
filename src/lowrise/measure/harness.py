"""One task, one loaded model, through lm-eval. Imports lm-eval, which takes seconds: import this module late."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from lowrise.errors import TaskError
from lowrise.measure.answers import Answer, TaskAnswers
from lowrise.measure.quiet import quiet_lm_eval
from lowrise.measure.rows import rows_at_once
from lowrise.measure.tasks import FEWSHOT_SEED, LoadedTask
from lowrise.model.decoder import Decoder
from lowrise.progress import Bar, Reporter
from lowrise.settings import Bos

_TORCH_SEED = 1234  # what lm-eval's own command line sets


class Harness(HFLM):  # type: ignore[misc]
    """lm-eval's view of a model that is already open. Nothing is loaded again.

    bos: `auto` leaves special tokens to the tokenizer, as lm-eval's command line does; `never` is its
    `add_bos_token=False`. An empty context is BOS, or else EOS, in either case.

    Batches have as many rows as `rows_at_once` allows of the longest request. lm-eval's own search for a size takes all
    memory that it finds, 17 GiB for a model of half a gigabyte, and leaves none to whoever shares the device.
    """

    def __init__(self, decoder: Decoder, tokenizer: Any, bos: Bos = "auto") -> None:
        # a copy: lm-eval gives a tokenizer without a pad token one, and ours is saved with the result
        with quiet_lm_eval():
            super().__init__(
                pretrained=decoder.model,
                tokenizer=copy.deepcopy(tokenizer),
                backend="causal",
                batch_size=1,
                max_length=None if decoder.limited else self._DEFAULT_MAX_LENGTH,  # it would take -1 at its word
                add_bos_token=None if bos == "auto" else False,
            )
        # as lm-eval has it, but for positions that a family's table keeps for itself
        self._max_length = min(self.max_length, decoder.max_length)
        self.tokens: dict[tuple[str, str], int] = {}
        self.lengths: dict[tuple[str, str], int] = {}
        self._decoder = decoder

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, override_bs: Any = None) -> Any:
        """Keeps how many tokens lm-eval scores of each (context, continuation)."""
        for pair, context, continuation in requests:
            self.tokens[pair] = len(continuation)
            self.lengths[pair] = len(context or ()) + len(continuation)
        longest = max(len(context or ()) + len(continuation) for _, context, continuation in requests)
        ask = partial(super()._loglikelihood_tokens, requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        return self._in_batches(longest, ask)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        return self._in_batches(
            self.max_length, partial(super().loglikelihood_rolling, requests, disable_tqdm=disable_tqdm)
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        room = max(request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests)
        longest = room + max(len(self.tok_encode(request.args[0])) for request in requests)
        return self._in_batches(longest, partial(super().generate_until, requests, disable_tqdm=disable_tqdm))

    def _in_batches(self, longest: int, ask: Callable[[], Any]) -> Any:
        """What `ask` answers to requests of up to `longest` tokens: all anew by halves where memory ends."""

        def asked(rows: int) -> Any:
            self.batch_size_per_gpu = rows
            return ask()

        return self._decoder.batching.halving(rows_at_once(self._decoder, longest), longest, asked)


def evaluate(lm: Harness, loaded: LoadedTask, limit: int | None, progress: Reporter) -> TaskAnswers:
    """All samples of a task, or the first `limit`, as `lm_eval` on the command line would score them."""
    task = loaded.task
    task.set_fewshot_seed(FEWSHOT_SEED)
    with progress.bar(loaded.name, loaded.requests) as bar:
        lm.set_cache_hook(_Advance(bar, lm))
        asked = {"tasks": {loaded.name: task}, "groups": {}, "group_map": {}}
        try:
            with quiet_lm_eval(progress), _seeded():
                results = lm_eval.evaluate(lm, asked, limit=limit)
        except AssertionError as error:  # lm-eval's word for items that do not fit the model's positions
            room = f"items that the model's {lm.max_length} positions can hold"
            raise TaskError(loaded.name, room, str(error) or "one that does not fit", "leave the task out") from error
    assert results is not None
    metrics = {
        key: float(value) if isinstance(value, int | float | np.number) else None
        for key, value in results["results"][loaded.name].items()
        if "," in key
    }
    samples: dict[int, list[dict[str, Any]]] = {}
    for sample in results["samples"][loaded.name]:
        samples.setdefault(sample["doc_id"], []).append(sample)
    return TaskAnswers(
        kind=task.OUTPUT_TYPE,
        metrics=metrics,
        better={name: bool(value) for name, value in results["higher_is_better"][loaded.name].items()},
        n=results["n-samples"][loaded.name]["effective"],
        fewshot=results["n-shot"][loaded.name],
        answers=[_answer(lm, task, filtered) for _, filtered in sorted(samples.items())],
    )


def _answer(lm: Harness, task: Any, filtered: list[dict[str, Any]]) -> Answer:
    """One document: its samples, one a filter."""
    first = filtered[0]
    scores = {}
    for sample in filtered:
        suffix = "" if sample is first else f",{sample['filter']}"
        for name in sample["metrics"]:
            if isinstance(sample[name], int | float | np.number):
                scores[name + suffix] = float(sample[name])
    options: list[tuple[float, int]] = []
    if task.OUTPUT_TYPE == "multiple_choice":
        # behind the options there may be as many requests without a context, for acc_mutual_info
        count = len(task.doc_to_choice(first["doc"]))
        pairs = zip(first["arguments"][:count], first["filtered_resps"][:count], strict=True)
        options = [(float(value), lm.tokens[tuple(arguments)]) for arguments, (value, _) in pairs]
    subject = first["doc"].get("subject") if isinstance(first["doc"], dict) else None
    return Answer(scores=scores, options=options, subject=subject if isinstance(subject, str) else None)


class _Advance:
    """lm-eval tells its cache of every finished request; here the bar listens."""

    def __init__(self, bar: Bar, lm: Harness) -> None:
        self._bar, self._lm = bar, lm

    def add_partial(self, _kind: str, request: Any, answer: Any) -> None:
        tokens = len(self._lm.tok_encode(answer)) if isinstance(answer, str) else self._lm.lengths.get(request, 0)
        self._bar.advance(tokens)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The seeds that lm-eval's command line sets, without leaving a trace in what this run draws afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(_TORCH_SEED)
            torch.manual_seed(_TORCH_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
