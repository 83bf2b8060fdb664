"""Tasks that cannot be measured: one line each, before a model is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from made_tasks import items, write_choice, write_extracting, write_tasks

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "dense", dtype=torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


class TestRefused:
    @pytest.fixture
    def refused(self, main: Main, dense: Path, cache: Path) -> Callable[..., str]:
        from refusals import assert_one_line

        def run(*options: object, says: tuple[object, ...]) -> str:
            line = assert_one_line(*main("measure", dense, "--quiet", *options), says)
            assert not cache.exists()
            return line

        return run

    @pytest.mark.usefixtures("no_tasks_of_lm_eval")
    def test_an_unknown_task_is_answered_with_close_names(self, refused: Callable[..., str], folder: Path) -> None:
        says = ("--tasks: 'made_choise'", "did you mean made_choice")
        refused("--tasks", "made_contexts,made_choise", "--task-dir", folder, says=says)

    @pytest.mark.usefixtures("no_tasks_of_lm_eval")
    def test_an_unknown_task_unlike_any_is_answered_with_all_of_the_folder(
        self, refused: Callable[..., str], folder: Path
    ) -> None:
        refused("--tasks", "zzzzzz", "--task-dir", folder, says=("'zzzzzz'", "choose one of made_choice"))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("hellaswagg", "did you mean hellaswag"),
            ("zzzzzz", "`lm_eval ls tasks`"),
            ("hellaswag", "whose data can be"),
        ],
    )
    def test_lm_evals_own_tasks_without_their_data(self, refused: Callable[..., str], name: str, says: str) -> None:
        refused("--tasks", name, says=(name, says))

    def test_a_folder_without_tasks(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refused("--tasks", "a", "--task-dir", tmp_path / "empty", says=("--task-dir", "*.yaml", "none in"))

    def test_no_folder(self, refused: Callable[..., str], tmp_path: Path, text_file: Path) -> None:
        refused("--tasks", "a", "--task-dir", tmp_path / "no", says=("--task-dir", "nothing there"))
        refused("--tasks", "a", "--task-dir", text_file, says=("--task-dir", "a file"))

    @pytest.mark.parametrize(
        ("option", "value", "says"),
        [
            ("--limit", "0", "greater than 0"),
            ("--limit", "-3", "greater than 0"),
            ("--limit", "1.5", "integer"),
            ("--fewshot", "-1", "greater than or equal to 0"),
        ],
    )
    def test_numbers(self, refused: Callable[..., str], folder: Path, option: str, value: str, says: str) -> None:
        refused("--tasks", "made_choice", "--task-dir", folder, option, value, says=(f"{option}: expected", says))

    @pytest.mark.parametrize("option", [["--limit", "3"], ["--fewshot", "0"], ["--task-dir", "."]])
    def test_settings_without_tasks(self, refused: Callable[..., str], option: list[str]) -> None:
        refused(*option, says=(option[0], "--tasks beside it", "none"))

    @pytest.mark.parametrize("options", [1, 0])
    def test_a_question_with_fewer_than_two_options(
        self, refused: Callable[..., str], folder: Path, options: int
    ) -> None:
        made = items(4, 2, seed=5)
        made[2]["choices"], made[2]["answer"] = made[2]["choices"][:options], 0
        write_choice(folder, "made_poor", "poor.jsonl", made)
        says = ("made_poor, item 2", "two options or more", f"found {options}")
        refused("--tasks", "made_poor", "--task-dir", folder, says=says)

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda folder: (folder / "choice.jsonl").unlink(), "No such file"),
            (lambda folder: (folder / "choice.jsonl").write_text("{"), "Expecting"),
            (lambda folder: (folder / "choice.jsonl").write_text(""), "made_choice"),
            (lambda folder: (folder / "made.py").write_text("def load(:"), "invalid syntax"),
            (lambda folder: (folder / "made.py").write_text("x = 1"), "load"),
        ],
    )
    def test_a_task_whose_data_cannot_be_had(
        self, refused: Callable[..., str], folder: Path, damage: Callable[[Path], None], says: str
    ) -> None:
        damage(folder)
        refused("--tasks", "made_choice", "--task-dir", folder, says=("--tasks: made_choice", says))

    def test_models_of_different_tokenizers(
        self, refused: Callable[..., str], folder: Path, tmp_path: Path, text_file: Path
    ) -> None:
        other = tiny.save(tmp_path / "other")
        written = json.loads((other / "tokenizer.json").read_text())
        written["model"]["merges"] = written["model"]["merges"][:10]
        (other / "tokenizer.json").write_text(json.dumps(written))
        says = (f"--dense {other}", "same tokenizer", "another")
        refused("--tasks", "made_choice", "--task-dir", folder, "--dense", other, says=says)
        refused("--text", text_file, "--dense", other, says=says)

    def test_items_that_the_models_positions_cannot_hold(
        self, main: Main, dense: Path, folder: Path, cache: Path
    ) -> None:
        from refusals import assert_one_line

        file = folder / "made_writing.yaml"
        file.write_text(file.read_text().replace("max_gen_toks: 8", "max_gen_toks: 128"))
        done = main("measure", dense, "--tasks", "made_writing", "--task-dir", folder, "--quiet")
        assert_one_line(*done, ("made_writing", "128 positions"))
        assert not list(cache.glob("*"))

    def test_a_task_that_runs_what_the_model_writes(self, refused: Callable[..., str], folder: Path) -> None:
        """As HumanEval does."""
        write_extracting(folder, "unsafe_code: true\n")
        says = ("--tasks: made_extracting", "one that runs code the model writes")
        refused("--tasks", "made_extracting", "--task-dir", folder, says=says)

    def test_the_papers_list_where_there_is_none_of_it(self, refused: Callable[..., str], folder: Path) -> None:
        refused("--tasks", "papers", "--task-dir", folder, says=("papers", "none in"))
