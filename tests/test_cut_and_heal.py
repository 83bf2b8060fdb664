"""`--heal` in `run`, `apply` and `compare`, and `heal:` in recipes: the cut, then its healing, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from lowrise.recipe import build_recipe
from lowrise.results import Results
from refusals import Main, assert_one_line

CUT = ["--preset", "block-influence", "--remove", 2, "--samples", 4, "--length", 32]
COMMON = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    file = tmp_path_factory.mktemp("guards") / "guard.txt"
    file.write_text(tiny.text(800, seed=5), encoding="utf-8")
    return file


@pytest.fixture
def recipe(tmp_path: Path, guard: Path) -> Path:
    """Healing that is quick, and keeps what it makes: words are nothing that a random model knows, so by `ce`."""
    file = tmp_path / "recipe.yaml"
    heal = {"tokens": "2k", "length": 32, "objective": "ce", "learning_rate": 0.003, "guard": str(guard)}
    file.write_text(yaml.safe_dump({"heal": heal}), encoding="utf-8")
    return file


def test_run_heals_what_it_cut(
    main: Main, tiny_folder: Path, text_file: Path, recipe: Path, guard: Path, tmp_path: Path
) -> None:
    """The same weights as of `run`, and `heal` of what it wrote; how it was cut and repaired is not forgotten."""
    text = ["--text", text_file]
    out, cut, apart = (tmp_path / name for name in ("out", "cut", "apart"))
    status, printed, errors = main(
        "run", tiny_folder, *CUT, *text, "--repair", "refit", "--recipe", recipe, "--out", out, *COMMON, "--json"
    )
    assert status == 0, errors
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    assert main("run", tiny_folder, *CUT, *text, "--repair", "refit", "--out", cut, *COMMON)[0] == 0
    how = ["--tokens", "2k", "--length", 32, "--objective", "ce", "--learning-rate", 0.003, "--guard", guard]
    assert main("heal", cut, "--dense", tiny_folder, *text, *how, "--out", apart, *COMMON)[0] == 0
    weights, others = (load_file(folder / "model.safetensors") for folder in (out, apart))
    assert weights.keys() == others.keys()
    assert all(bool((weights[name] == others[name]).all()) for name in weights)
    results = Results.model_validate(json.loads(printed))
    assert results.command == "run"
    assert results.healing is not None
    assert results.healing.kept > 0
    assert "perplexity before healing" in (out / "lowrise/report.html").read_text()
    assert results.repairs == Results.model_validate(json.loads((cut / "lowrise/results.json").read_text())).repairs
    assert {"repair", "healing"} <= results.seconds.keys()
    assert (out / "lowrise/observation.json").read_bytes() == (cut / "lowrise/observation.json").read_bytes()
    said = yaml.safe_load((out / "lowrise/recipe.yaml").read_text())
    assert (said["model"], said["heal"]["tokens"]) == (str(tiny_folder), "2k")


def test_a_plan_is_applied_and_healed(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    assert main("plan", tiny_folder, *CUT, "--text", text_file, "--out", plan, *COMMON)[0] == 0
    status, printed, errors = main(
        "apply", tiny_folder, plan, "--text", text_file, "--heal", "1k", "--out", out, *COMMON, "--json"
    )
    assert status == 0, errors
    results = Results.model_validate(json.loads(printed))
    assert results.command == "apply"
    assert results.healing is not None
    assert results.healing.tokens <= 1000


def test_what_was_cut_before_it_was_stopped_is_not_cut_again(
    main: Main, tiny_folder: Path, text_file: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["run", tiny_folder, *CUT, "--text", text_file, "--recipe", recipe, "--out", out, "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("lowrise.pipeline.healing.train", _stopped)
        status, _, _ = main(*command)
    assert status == 130
    assert not out.exists()
    (kept,) = tmp_path.glob(".out.*.cut")
    status, _, errors = main(*command)
    assert status == 0, errors
    assert f"the cut model is kept from before in {kept}" in errors
    assert not kept.exists()


def _stopped(*_: object) -> None:
    raise SystemExit(130)


def test_every_row_of_a_comparison_is_healed(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = ["--presets", "tail,laco-mean", "--remove", 2, "--samples", 4, "--length", 32]
    status, printed, errors = main(
        "compare", tiny_folder, *rows, "--text", text_file, "--heal", "1k", "--out", out, "--device", "cpu", "--json"
    )
    assert status == 0, errors
    rows = json.loads(printed)["rows"]
    assert [row["seconds_by_stage"]["healing"] > 0 for row in rows] == [True, True]
    assert all(row["seconds_to_compress"] > row["seconds_by_stage"]["healing"] for row in rows)


@pytest.mark.parametrize("budget", ["0", "many"])
def test_a_budget_that_is_none(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, budget: str) -> None:
    said = main("run", tiny_folder, *CUT, "--text", text_file, "--heal", budget, "--out", tmp_path / "out", *COMMON)
    assert_one_line(*said, ("--heal", "100k", budget))


def test_a_guard_that_is_not_there_is_refused_before_the_cut(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("heal: {tokens: 1k, guard: nowhere.txt}\n", encoding="utf-8")
    out = tmp_path / "out"
    said = main("run", tiny_folder, *CUT, "--text", text_file, "--recipe", recipe, "--out", out, *COMMON)
    assert_one_line(*said, ("--guard nowhere.txt", "a file", "nothing"))
    assert [*tmp_path.glob(".out*")] == []


def test_a_recipe_may_say_the_tokens_alone() -> None:
    long, short = ({"model": "m", "heal": heal} for heal in ({"tokens": "2M"}, "2M"))
    assert build_recipe(long) == build_recipe(short)
    assert build_recipe({"model": "m", "heal": 4096}).heal == build_recipe({"model": "m", "heal": "4096"}).heal
