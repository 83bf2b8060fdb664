"""Which lm-eval tasks are asked for: found, loaded, checked and hashed before any model is opened."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.errors import UNUSABLE, TaskError, close_names, close_paths, reason
from lowrise.measure.cache import digest
from lowrise.measure.identity import files_sha256
from lowrise.measure.quiet import quiet_lm_eval
from lowrise.measure.task_files import check_task_files
from lowrise.progress import Reporter
from lowrise.reading import kind_of

FEWSHOT_SEED = 1234  # what lm-eval's own command line sets

# Both papers' benchmark list: (name by the hub, name in a task folder); None where lm-eval has no such task.
PAPERS: dict[str, tuple[str | None, str]] = {
    "C3": (None, "local_c3"),
    "CMNLI": (None, "local_cmnli"),
    "ChID": (None, "local_chid"),
    "BoolQ": ("boolq", "local_boolq"),
    "WSC": ("wsc", "local_wsc"),
    "CommonsenseQA": ("commonsense_qa", "local_commonsense_qa5"),
    "HellaSwag": ("hellaswag", "local_hellaswag"),
    "PIQA": ("piqa", "local_piqa"),
    "RACE-middle": (None, "local_race_middle"),
    "RACE-high": ("race", "local_race_high"),
    "MMLU": ("mmlu", "local_mmlu"),
    "CMMLU": ("cmmlu", "local_cmmlu"),
    "XSum": ("xsum", "local_xsum"),
    "GSM8K": ("gsm8k", "local_gsm8k"),
    "StrategyQA": ("bigbench_strategyqa_multiple_choice", "local_strategyqa"),
}

# What lm-eval, its task files, `datasets` and the hub raise on tasks that cannot be used.
_UNUSABLE: tuple[type[Exception], ...] = (*UNUSABLE, AssertionError, SyntaxError)


@dataclass(frozen=True)
class LoadedTask:
    """A leaf task. sha256: over its requests, documents, targets, settings and code, as far as `limit` takes them."""

    name: str
    task: Any
    requests: int
    sha256: str


@dataclass(frozen=True)
class TaskSet:
    """What is asked for, in order: each name with its leaf tasks; a group also with lm-eval's own, which averages."""

    leaves: dict[str, list[LoadedTask]]
    groups: dict[str, Any]
    limit: int | None

    def __bool__(self) -> bool:
        return bool(self.leaves)


NO_TASKS = TaskSet({}, {}, None)


def load_tasks(
    names: list[str], task_dir: str | None, limit: int | None, fewshot: int | None, progress: Reporter
) -> TaskSet:
    """The tasks of `names`: lm-eval's own or those of `task_dir`, which come first; `papers` is both papers' list.

    Raises TaskError, one line, for a name that is not known (with close ones), a folder without tasks, a task whose
    data cannot be had, and a multiple-choice question with fewer than two options.
    """
    if not names:
        for option, value in (("--task-dir", task_dir), ("--limit", limit), ("--fewshot", fewshot)):
            if value is not None:
                raise TaskError(option, "--tasks beside it", "none", "say which tasks")
        return NO_TASKS
    manager = _manager(names, task_dir)
    leaves: dict[str, list[LoadedTask]] = {}
    groups: dict[str, Any] = {}
    for name in _expanded(names, manager, task_dir, progress):
        with quiet_lm_eval(), _usable(name):
            found = manager.load([name])
        group = found["groups"].get(name)
        tasks = {leaf: _load(leaf, task, limit, fewshot, progress) for leaf, task in found["tasks"].items()}
        if group is not None and group.has_aggregation:
            leaves[name], groups[name] = list(tasks.values()), group
        else:  # a tag, or a group without an average of its own, stands for its tasks
            leaves |= {leaf: [task] for leaf, task in tasks.items()}
    return TaskSet(leaves, groups, limit)


def _manager(names: list[str], task_dir: str | None) -> Any:
    """lm-eval's index: of `task_dir` alone if that has all `names`, since lm-eval's own 14,000 tasks take long."""
    if task_dir is not None:
        expected, remedy = "a folder of lm-eval task files as --task-dir", "check the path"
        kind = kind_of(task_dir, TaskError, expected, remedy)
        if kind != "folder":
            found = "nothing there" if kind is None else "a file" if kind == "file" else kind
            raise TaskError(task_dir, expected, found, close_paths(task_dir, remedy))
        check_task_files(Path(task_dir))
    from lm_eval.tasks import TaskManager

    with quiet_lm_eval():
        if task_dir is not None:
            local = TaskManager(include_path=task_dir, include_defaults=False)
            if not local.all_tasks:
                raise TaskError("--task-dir", "lm-eval task files (*.yaml)", f"none in {task_dir}", "check the path")
            if all(name in local.all_tasks or name == "papers" for name in names):
                return local
        manager = TaskManager(include_path=task_dir)
    for name in names:
        if name not in manager.all_tasks and name != "papers":
            known = local.all_tasks if task_dir is not None else manager.all_tasks
            # all of lm-eval's names would be no answer
            remedy = close_names(name, [*known, "papers"], None if task_dir else "`lm_eval ls tasks` names them")
            raise TaskError(f"--tasks: {name!r}", "a task that lm-eval or --task-dir has", "none of that name", remedy)
    return manager


def _expanded(names: list[str], manager: Any, task_dir: str | None, progress: Reporter) -> list[str]:
    """`papers` becomes what there is of its list; each name once."""
    expanded: list[str] = []
    for name in names:
        if name != "papers" or name in manager.all_tasks:
            expanded.append(name)
            continue
        column = 0 if task_dir is None else 1
        there = {paper: pair[column] for paper, pair in PAPERS.items() if pair[column] in manager.all_tasks}
        missing = [paper for paper in PAPERS if paper not in there]
        if not there:
            raise TaskError("--tasks: papers", "local_* tasks of the papers", f"none in {task_dir}", "check the folder")
        if missing:
            where = "lm-eval" if task_dir is None else task_dir
            progress.warn(f"of the papers' list, {where} has no task for {', '.join(missing)}")
        expanded += [str(task) for task in there.values()]
    return list(dict.fromkeys(expanded))


def _load(name: str, task: Any, limit: int | None, fewshot: int | None, progress: Reporter) -> LoadedTask:
    """Settings as lm-eval's command line gives them, then all requests built, checked and hashed."""
    fixed = task.get_config("num_fewshot")
    if fewshot is None:
        task.set_config("num_fewshot", fixed or 0)
    elif fixed == 0 and fewshot > 0:
        progress.warn(f"{name} fixes its number of examples at 0: --fewshot {fewshot} does not hold for it")
    else:
        task.set_config("num_fewshot", fewshot)
    if task.get_config("num_fewshot") and not _has_examples(task):
        progress.warn(f"the examples in front of {name}'s items are test items too, for it has no others")
    task.set_fewshot_seed(FEWSHOT_SEED)
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        kind = "one that runs code the model writes" if getattr(task, "UNSAFE_CODE", False) else "one with pictures"
        raise TaskError(f"--tasks: {name}", "a task on text alone", kind, "choose another")
    with quiet_lm_eval(), _usable(name):
        task.build_all_requests(limit=limit)
        documents = dict(task.doc_iterator(limit=limit))
        if task.OUTPUT_TYPE == "multiple_choice":
            for number, document in documents.items():
                _check_item(task, document, f"{name}, item {number}")
        config = task.dump_config()
        source = (config.get("metadata") or {}).get("config_source", "")
        content = {
            "name": name,
            "requests": [[instance.request_type, instance.args] for instance in task.instances],
            "documents": list(documents.values()),
            "targets": [task.doc_to_target(document) for document in documents.values()],
            "config": {key: value for key, value in config.items() if key != "metadata"},
            "version": str(task.VERSION),
            "code": _code(task, source),
        }
    return LoadedTask(name, task, len(task.instances), digest(content))


def _check_item(task: Any, document: Any, where: str) -> None:
    """Raises TaskError for a question that lm-eval cannot score: too few options, or an answer that is none of them."""
    remedy = "mend the data or leave it out"
    if (count := len(task.doc_to_choice(document))) < 2:
        raise TaskError(where, "two options or more", str(count), remedy)
    if task.multiple_input:
        return  # the answer is the option, and what differs is in front of it
    answer = task.doc_to_target(document)
    if (
        not all(isinstance(one, int) for one in answer)
        if isinstance(answer, list)
        else not isinstance(answer, int | str)
    ):
        raise TaskError(where, "the number of the right option, its text, or numbers", repr(answer), remedy)


def _has_examples(task: Any) -> bool:
    """Whether examples come from elsewhere than the items that are measured on."""
    own = getattr(task, "fewshot_cfg", None)
    return bool(
        task.has_training_docs()
        or task.has_validation_docs()
        or getattr(own, "split", None)
        or getattr(own, "samples", None)
    )


def _code(task: Any, source: str) -> str:
    """What may decide a score beside the settings: the task's class, and Python beside its file."""
    beside = sorted(Path(source).parent.glob("*.py")) if source and Path(source).is_file() else []
    return files_sha256([inspect.getfile(type(task)), *map(str, beside)])


@contextlib.contextmanager
def _usable(name: str) -> Any:
    """Turns what libraries raise on a task that cannot be used into one line."""
    import jinja2
    import yaml

    unusable: tuple[type[Exception], ...] = (*_UNUSABLE, jinja2.TemplateError, yaml.YAMLError)
    try:
        yield
    except unusable as error:
        remedy = "check its files, or give local data with --task-dir"
        raise TaskError(f"--tasks: {name}", "a task whose data can be had", reason(error), remedy) from error
