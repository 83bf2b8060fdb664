"""Every typo is answered with what was meant: presets, options, commands, files, engines, tasks, words."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrise.errors import close_names, close_paths
from refusals import Refused

MODEL, OUT = "org/name", "out"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["runn", MODEL], "'run'"),
        (["compair"], "'compare'"),
        (["run", MODEL, "--presett", "refit"], "--preset"),
        (["run", MODEL, "--preset", "refti"], "did you mean refit"),
        (["run", MODEL, "--repair", "refot"], "did you mean refit"),
        (["run", MODEL, "--preset", "streamline", "--loss", "relativ"], "did you mean relative?"),
        (["run", MODEL, "--dtype", "blfoat16"], "did you mean bfloat16"),
        (["run", MODEL, "--bos", "nevr"], "did you mean never?"),
        (["run", MODEL, "--for", "vlm"], "did you mean vllm"),
        (["run", MODEL, "--text", "a.tx"], "did you mean a.txt"),
        (["run", MODEL, "--recipe", "recipe.yml"], "did you mean recipe.yaml?"),
        (["run", "org/nam"], "did you mean org/name?"),
        (["run", "./org/nmae"], "did you mean org/name?"),
        (["measure", MODEL, "--text", "b.tct"], "did you mean b.txt"),
        (["apply", MODEL, "plann.json", "--out", OUT], "did you mean plan.json?"),
        (["heal", MODEL, "--dense", MODEL, "--guard", "c.text", "--out", OUT], "did you mean c.txt"),
        (["heal", MODEL, "--dense", MODEL, "--train", "laro", "--out", OUT], "did you mean lora"),
        (["heal", MODEL, "--dense", MODEL, "--objective", "mixx", "--out", OUT], "did you mean mix?"),
        (["check", "org/nane"], "did you mean org/name?"),
        (["check", MODEL, "--for", "lama.cpp"], "did you mean llama.cpp"),
        (["report", "shalower"], "did you mean shallower?"),
        (["export", "shalower", "--gguf", "x.gguf"], "did you mean shallower?"),
        (["export", MODEL, "--gguf", "x.gguf", "--type", "q8-0"], "did you mean q8_0?"),
        (["compare", MODEL, "--presets", "laco-mena", "--remove", "2", "--out", OUT], "did you mean laco-mean"),
        (["measure", MODEL, "--task-dir", "taks", "--tasks", "x"], "did you mean tasks?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_typo_is_answered(refused: Refused, here: Path, arguments: list[str], meant: str) -> None:
    for name in ("recipe.yaml", "plan.json", "c.txt"):
        (here / name).touch()
    for name in ("shallower", "tasks"):
        (here / name).mkdir()
    quiet = ["--quiet"] if arguments[0] in ("run", "measure", "apply", "heal", "compare") else []
    refused(*arguments, *quiet, says=(meant,))


def test_what_is_nothing_alike_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "words.txt").touch()
    assert close_paths(tmp_path / "numbers.csv", "check the path") == "check the path"
    assert close_paths(tmp_path / "no" / "folder" / "words.txt", "check the path") == "check the path"
    assert close_paths(tmp_path / "word.txt", "check the path") == f"did you mean {tmp_path / 'words.txt'}?"
    assert close_names("x", ["one", "two"]) == "choose one of one, two"
    assert close_names("x", ["one", "two"], "correct the value") == "correct the value"


def test_a_path_below_a_folder_whose_name_is_nearly_right(tmp_path: Path) -> None:
    (tmp_path / "models" / "one").mkdir(parents=True)
    wanted = tmp_path / "models" / "one"
    assert close_paths(tmp_path / "model" / "one", "") == f"did you mean {wanted}?"
    assert close_paths(tmp_path / "model" / "two", "") == ""
