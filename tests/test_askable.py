"""Tasks as lm-eval's own command line would ask them of the tokenizer, or refused before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import tiny
from made_tasks import items, write_choice, write_tasks

Main = Callable[..., tuple[int, str, str]]
NAMES = ["made_choice", "made_contexts"]


@pytest.fixture(scope="module")
def bos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "with-bos", template="<s> $A")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


@pytest.mark.parametrize("bos", ["auto", "never"])
def test_special_tokens_are_those_of_lm_evals_command_line(main: Main, bos_folder: Path, tasks: Path, bos: str) -> None:
    """`auto` is what lm-eval does of itself; `never` its add_bos_token=False."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    options = ["--task-dir", tasks, "--bos", bos, "--json"]
    status, printed, errors = main("measure", bos_folder, "--tasks", ",".join(NAMES), *options)
    assert status == 0, errors
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    more = {} if bos == "auto" else {"add_bos_token": False}
    lm = HFLM(str(bos_folder), device="cpu", dtype="float32", batch_size=1, **more)
    assert lm.tok_encode("ab")[:1] == ([0] if bos == "auto" else lm.tok_encode("ab", add_special_tokens=False)[:1])
    theirs = lm_eval.simple_evaluate(lm, tasks=NAMES, task_manager=manager, bootstrap_iters=10)
    assert theirs is not None
    for name in NAMES:
        ours = json.loads(printed)["tasks"][name]
        assert ours["acc"] == theirs["results"][name]["acc,none"]
    (kept,) = {_loglikelihoods(name) for name in NAMES[:1]}
    wanted = [float(pair[0]) for sample in theirs["samples"]["made_choice"] for pair in sample["filtered_resps"]]
    assert kept == pytest.approx(wanted, abs=1e-4)


def _loglikelihoods(name: str) -> tuple[float, ...]:
    """Of every option of a task, as they lie in the cache."""
    from lowrise.measure.cache import cache_folder

    entries = [json.loads(file.read_text()) for file in cache_folder().glob("*.json")]
    (found,) = [entry["value"] for entry in entries if entry["about"]["what"].startswith(f"task {name},")]
    return tuple(value for answer in found["answers"] for value, _ in answer["options"])


@pytest.fixture
def refused(main: Main, tasks: Path, text_file: Path, tmp_path: Path) -> Callable[..., str]:
    """The line that a run ends with, which has computed nothing by then."""

    def run(folder: Path, name: str) -> str:
        status, _, errors = main(
            "run", folder, "--preset", "streamline-none", "--remove", "2", "--text", text_file, "--samples", "4",
            "--length", "16", "--tasks", name, "--task-dir", tasks, "--out", tmp_path / "out",
        )  # fmt: skip
        lines = errors.splitlines()
        assert status == 2, errors
        assert "observing" not in errors
        assert not (tmp_path / "out").exists()
        return lines[-1]

    return run


def test_a_tokenizer_without_bos_and_eos_is_asked_no_task(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    line = refused(folder, "made_choice")
    assert "--tasks: expected a tokenizer with a BOS or an EOS token, as lm-eval needs one, found none" in line


def test_a_bos_that_the_model_cannot_embed_is_asked_no_task(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "far")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<far>"})
    tokenizer.save_pretrained(folder)
    assert "found token 300, and the model can embed those below 300" in refused(folder, "made_choice")


def test_an_option_without_a_token_of_its_own_is_named_with_its_task(
    refused: Callable[..., str], bos_folder: Path, tasks: Path
) -> None:
    made: list[dict[str, Any]] = items(3, 2, seed=4)
    made[2]["choices"][1] = ""
    write_choice(tasks, "made_empty", "empty.jsonl", made)
    file = tasks / "made_empty.yaml"
    file.write_text(file.read_text().replace('target_delimiter: " "', 'target_delimiter: ""'))
    line = refused(bos_folder, "made_empty")
    assert "--tasks: made_empty, item 2: expected an option with a token of its own, found none of ''" in line


def test_an_option_that_merges_with_its_context_is_named(
    refused: Callable[..., str], bos_folder: Path, tasks: Path
) -> None:
    """Context and option together are one token, as the context alone is: nothing of the option is left to score."""
    tokenizer = AutoTokenizer.from_pretrained(bos_folder)
    pair = next(word for word, _ in sorted(tokenizer.get_vocab().items()) if len(word) == 2 and word.isalpha())
    made: list[dict[str, Any]] = [{"context": pair[0], "choices": [pair[1], "zzz"], "answer": 0}]
    write_choice(tasks, "made_merged", "merged.jsonl", made)
    file = tasks / "made_merged.yaml"
    file.write_text(file.read_text().replace('target_delimiter: " "', 'target_delimiter: ""'))
    line = refused(bos_folder, "made_merged")
    assert f"made_merged, item 0: expected an option with a token of its own, found none of '{pair[1]}' behind" in line
