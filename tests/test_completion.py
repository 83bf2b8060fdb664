"""`lowrise` alone, and what the shell completes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import typer

from lowrise import cli
from lowrise.methods import methods
from lowrise.options import COMPLETED, HEALING, OPTIONS, completing
from lowrise.recipe import presets


def test_alone_it_shows_commands_that_there_are(main: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = main()
    named = re.findall(r"^  lowrise (\w+)", out, re.M)
    assert (status, err, len(named)) == (0, "", 5)
    assert {*named} <= {*typer.main.get_command(cli.app).commands}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "begun", "names"),
    [
        ("preset", "refit", ["refit", "refit-span"]),
        ("preset", "refit,taylo", ["refit,taylor"]),
        ("repair", "", ["none", *methods("repair")]),
        ("for_engines", "vllm,ll", ["vllm,llama.cpp"]),
        ("train", "l", ["lora"]),
        ("loss", "", ["mse", "relative"]),
        ("dtype", "b", ["bfloat16"]),
        ("bos", "x", []),
    ],
)
def test_names_are_completed(key: str, begun: str, names: list[str]) -> None:
    assert sorted(completing(key)(begun)) == sorted(names)


def test_every_option_of_names_is_one() -> None:
    assert {*COMPLETED} <= {*OPTIONS, *HEALING}
    for key in COMPLETED:
        assert completing(key)("")


def test_the_shell_is_answered(lowrise: Any) -> None:
    asked = {"_LOWRISE_COMPLETE": "complete_bash", "COMP_WORDS": "lowrise run --preset laco", "COMP_CWORD": "3"}
    answered = lowrise(env={**os.environ, **asked})
    assert sorted(answered.stdout.split()) == sorted(name for name in presets() if name.startswith("laco"))
    assert (answered.returncode, answered.stderr) == (0, "")
