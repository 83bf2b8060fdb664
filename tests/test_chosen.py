"""`lowrise run MODEL` alone: where its output goes, and what it says of what nobody said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrise.chosen import chosen, output_of
from lowrise.errors import RecipeError
from lowrise.recipe import build_recipe

Main = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "name-refit-25-percent-less"),
        ({"remove": "8"}, "name-refit-8-layers-less"),
        ({"preset": "streamline-none", "remove": "3"}, "name-streamline-none-3-layers-less"),
        ({"layers": "1-2,4"}, "name-given-without-1-2_4"),
        ({"keep_parameters": "1.1B"}, "name-refit-keeps-1.1B"),
        ({"keep_latency": 0.75}, "name-refit-keeps-0.75"),
        ({"preset": "laco"}, "name-laco"),
    ],
    ids=str,
)
def test_the_name_of_an_output_says_what_was_done(here: Path, settings: dict[str, Any], name: str) -> None:
    assert output_of(build_recipe({"model": "org/name", **settings})) == here / "org" / name
    assert output_of(build_recipe({"model": "other/name", **settings})) == Path(name)  # of the hub: here


def test_a_file_and_the_current_folder_name_their_outputs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "small.Q4_1.gguf").touch()
    assert output_of(build_recipe({"model": "small.Q4_1.gguf"})) == Path("small.Q4_1-refit-25-percent-less")
    monkeypatch.chdir(here / "org" / "name")
    assert output_of(build_recipe({"model": "."})) == here / "org" / "name-refit-25-percent-less"
    with pytest.raises(RecipeError, match="MODEL: expected a hub id"):
        output_of(build_recipe({}))


def test_what_nobody_said_is_told_with_the_option_that_changes_it() -> None:
    recipe = build_recipe({"model": "org/name"})
    told = chosen(recipe, Path("shallower"), ["model"])
    assert told is not None
    for word in ("25%", "--remove", "refit", "--preset", "model writes", "--text", "shallower", "--out"):
        assert word in told
    said = build_recipe({"model": "m", "preset": "laco-mean", "remove": 2, "text": ["a.txt"]})
    assert chosen(said, Path("x"), ["model", "preset", "remove", "text", "out"]) is None
    by_hand = chosen(build_recipe({"model": "m", "layers": "2"}), Path("x"), ["model", "layers", "out"])
    assert by_hand is not None
    assert "--remove" not in by_hand
    assert "--preset" not in by_hand


def test_a_run_without_a_place_puts_its_output_beside_the_model(main: Main, here: Path) -> None:
    status, printed, said = main("run", "org/name", "--layers", "2-3", "--text", "a.txt", "--length", 16)
    assert status == 0, said
    out = here / "org" / "name-given-without-2-3"
    assert f"into {out} (--out)" in said.replace("\n", " ")
    assert f"written to {out}" in printed.replace("\n", " ")
    assert json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))["layers"] == 4
    status, _, said = main("run", "org/name", "--layers", "2-3", "--text", "a.txt", "--quiet")
    assert (status, "one that does" in said) == (2, True)
