"""The work folder of a run: what it hangs on, and when it comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lowrise.errors import InputError, OutputError
from lowrise.measure.cache import digest
from lowrise.measure.identity import tokenizer_sha256
from lowrise.measure.system import versions
from lowrise.model.batching import Batching
from lowrise.model.source import OpenModel
from lowrise.pipeline.context import Run
from lowrise.plan import Plan
from lowrise.reading import sha256_or_none
from lowrise.work import Work

# Settings of a recipe that decide what is measured, or how a model is opened, but neither a plan nor weights.
_BESIDE = {"eval_text", "windows", "speed", "tasks", "task_dir", "limit", "fewshot", "max_ram", "memory"}
_BESIDE |= {"trust_remote_code", "allow_pickle"}


@contextmanager
def going_on(run: Run) -> Iterator[None]:
    """Around a run: what it kept goes once it is done, and where the same command would be refused again. It stays
    where the run was stopped, failed, or had no room; of the first and the last it is said.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        run.work.stopped(run.progress)
        raise
    except InputError as error:
        if isinstance(error, OutputError) and not isinstance(error.__cause__, FileExistsError):
            run.work.stopped(run.progress)  # a full disk, for one: with more room the same command goes on
        else:  # of a place that something else has taken the result lies beside it
            run.work.remove()
        raise
    run.work.remove()


def begin_work(run: Run, opened: OpenModel, plan: Plan | None = None, dense: OpenModel | None = None) -> None:
    """Find what the same command has kept, if there is a place for it. plan: that is to be applied. dense: the model
    that `opened` is to learn from.
    """
    if run.out is not None and run.alone:
        run.work = Work(run.out.resolve(), work_key(run, opened, plan, dense), run.progress, run.clock.so_far)
        run.work.begin(run.progress, run.fresh)
        run.clock.go_on(run.work.seconds())
        _keep_batches(run, opened.decoder.batching)


def _keep_batches(run: Run, batching: Batching) -> None:
    """On an accelerator batches follow from what is free there, and what is kept is kept batch by batch."""
    if batching.fixed:
        return
    kept = run.work.find("batches")
    if kept is None:
        run.work.keep("batches", batching.tokens, what="how large batches are")
    else:
        batching.tokens = int(kept.value)


def work_key(run: Run, opened: OpenModel, plan: Plan | None = None, dense: OpenModel | None = None) -> str:
    """Eight hexadecimal digits of a hash over all that decides what is kept: settings, the model, the texts, the
    machine as far as the last bits of a result hang on it.
    """
    recipe = run.recipe
    files = [*recipe.text, recipe.tokens, recipe.dataset]
    if recipe.heal is not None:
        files += [recipe.heal.guard, *recipe.heal.chat]
    about = {
        "command": run.command,
        "recipe": recipe.model_dump(exclude=_BESIDE),
        # of a dataset's name, and of what the calibration will refuse, there is none
        "files": [None if file is None else sha256_or_none(file) for file in files],
        "plan": None if plan is None else plan.to_json(),
        "model": opened.record.model_dump(),
        "dense": None if dense is None else dense.record.model_dump(),
        "config": opened.model.config.to_json_string(use_diff=False),
        "tokenizer": tokenizer_sha256(opened.tokenizer),
        "device": str(opened.decoder.device),
        "dtype": str(opened.decoder.dtype),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    return digest(about)[:8]
