"""Tasks: what is kept is taken from the cache, the rest is measured and kept, task by task; then both are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrise.errors import TaskError
from lowrise.measure.answers import Answer, TaskAnswers, plain_metrics
from lowrise.measure.cache import Cache
from lowrise.measure.identity import files_sha256
from lowrise.measure.retained import Scores
from lowrise.measure.stability import agreement, stability, stability_published
from lowrise.measure.tasks import TaskSet
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter
from lowrise.results import TaskScores
from lowrise.settings import Bos

Answers = dict[str, TaskAnswers]  # by leaf task


def answer_tasks(
    decoder: Decoder,
    tokenizer: Any,
    identity: dict[str, Any],
    tasks: TaskSet,
    cache: Cache,
    label: str,
    progress: Reporter,
    bos: Bos = "auto",
) -> Answers:
    """What the model answers to every leaf task. label: what `lowrise cache` calls the model."""
    import lm_eval

    from lowrise.measure import harness

    lm = None
    answers: Answers = {}
    code = files_sha256([harness.__file__])
    for loaded in {leaf.name: leaf for leaves in tasks.leaves.values() for leaf in leaves}.values():
        key = {"what": "task", "model": identity, "task": loaded.sha256, "lm_eval": lm_eval.__version__, "code": code}
        key["bos"] = bos
        kept = cache.read(key)
        if kept is not None:
            answers[loaded.name] = TaskAnswers.model_validate(kept)
            progress.say(f"{loaded.name}: {answers[loaded.name].n} items, kept from before")
            continue
        lm = lm or harness.Harness(decoder, tokenizer, bos)
        answers[loaded.name] = harness.evaluate(lm, loaded, tasks.limit, progress)
        about = f"task {loaded.name}, {answers[loaded.name].n} items"
        cache.write(key, answers[loaded.name].model_dump(), {"what": about, "model": label})
    return answers


def check_tasks(tasks: TaskSet, opened: OpenModel, bos: Bos) -> None:
    """Raises TaskError, before anything is run, for tasks that the model cannot be asked."""
    if tasks:
        from lowrise.measure.askable import check_askable

        check_askable(opened.decoder, opened.tokenizer, bos, tasks)


def task_rows(tasks: TaskSet, answers: Answers) -> dict[str, TaskScores]:
    """`tasks` of results.json: one row a name that was asked for; a group's holds those of its subtasks."""
    rows = {}
    for name, leaves in tasks.leaves.items():
        if name not in tasks.groups:
            rows[name] = answers[name].summary()
            continue
        mine = {leaf.name: answers[leaf.name] for leaf in leaves}
        raw = {leaf: {**one.metrics, "sample_len": one.n} for leaf, one in mine.items()}
        averaged = tasks.groups[name].aggregate(raw)
        metrics = {key: value if isinstance(value, float) else None for key, value in averaged.items() if "," in key}
        chance = _group_chance(tasks.groups[name], list(mine.values()))
        counts = {
            "n": averaged["sample_len"],
            **({} if chance is None else {"chance": chance}),
            "fewshot": max(one.fewshot for one in mine.values()),
            "subtasks": {leaf: one.summary() for leaf, one in mine.items()},
        }
        rows[name] = TaskScores.model_validate({**plain_metrics(metrics), **counts})
    return rows


def compare_answers(tasks: TaskSet, dense: Answers, compressed: Answers) -> dict[str, dict[str, float | None]]:
    """`stability`, `stability_published` and `agreement`, by name, of every multiple-choice task.

    Raises TaskError where both models saw other tokens.
    """
    found: dict[str, dict[str, float | None]] = {"stability": {}, "stability_published": {}, "agreement": {}}
    for name, leaves in tasks.leaves.items():
        pairs = [(dense[leaf.name].answers, compressed[leaf.name].answers) for leaf in leaves]
        for before, after in pairs:
            if [_tokens(answer) for answer in before] != [_tokens(answer) for answer in after]:
                raise TaskError(name, "the same tokens for both models", "others", "compare models of one tokenizer")
        if not all(answer.options and "acc" in answer.scores for before, _ in pairs for answer in before):
            continue
        for kind, measure in (
            ("stability", stability),
            ("stability_published", stability_published),
            ("agreement", agreement),
        ):
            values = [measure(before, after) for before, after in pairs]
            there = [value for value in values if value is not None]
            found[kind][name] = sum(there) / len(there) if len(there) == len(values) else None
    return found


def paired_scores(tasks: TaskSet, dense: Answers, compressed: Answers) -> dict[str, Scores]:
    """What `retained` compares: `acc` where a task has it, else its first metric of which more is better."""
    found = {}
    for name, leaves in tasks.leaves.items():
        before = [dense[leaf.name] for leaf in leaves]
        after = [compressed[leaf.name] for leaf in leaves]
        metric = _main_metric(before)
        if metric is None:
            continue
        group = tasks.groups.get(name)
        sizes = np.array([one.n for one in before])
        shares = _shares(group, metric, before)
        found[name] = Scores(
            metric=metric,
            dense=_column(before, metric),
            compressed=_column(after, metric),
            weights=np.repeat(shares / sizes, sizes),
            strata=np.repeat(np.arange(len(leaves)), sizes),
            chance=_weighted_chance(shares, before) if metric == "acc" else None,
        )
    return found


def _main_metric(tasks: list[TaskAnswers]) -> str | None:
    """A metric that every sample of every task has a score of, and that is the mean of these scores."""
    better = [name for name, yes in tasks[0].better.items() if yes]
    for metric in sorted(better, key=lambda name: name != "acc"):
        if all(
            metric in answer.scores and len(one.answers) == one.n for one in tasks for answer in one.answers
        ) and all(
            np.isclose(_column([one], metric).mean(), plain_metrics(one.metrics).get(metric) or 0.0) for one in tasks
        ):
            return metric
    return None


def _column(tasks: list[TaskAnswers], metric: str) -> Any:
    return np.array([answer.scores[metric] for one in tasks for answer in one.answers])


def _shares(group: Any, metric: str, tasks: list[TaskAnswers]) -> Any:
    """Each subtask's share in the group's average: by size, unless the group says that all count alike."""
    sizes = np.array([one.n for one in tasks], dtype=np.float64)
    for setting in (group.aggregate_metric_list if group is not None else None) or []:
        if setting.metric == metric and not setting.weight_by_size:
            return np.full(len(tasks), 1 / len(tasks))
    return sizes / sizes.sum()


def _weighted_chance(shares: Any, tasks: list[TaskAnswers]) -> float | None:
    chances = [one.chance for one in tasks]
    return None if None in chances else float(shares @ np.array(chances, dtype=np.float64))


def _group_chance(group: Any, tasks: list[TaskAnswers]) -> float | None:
    return _weighted_chance(_shares(group, "acc", tasks), tasks)


def _tokens(answer: Answer) -> list[int]:
    return [tokens for _, tokens in answer.options]
