"""A plan holds all that its result depends on: `plan` and `apply` make what `run` makes, whatever is set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from lowrise.errors import RecipeError
from lowrise.recipe import Recipe, build_recipe, foreign_settings, presets

Main = Callable[..., tuple[int, str, str]]
SMALL = {"remove": "2", "samples": 10, "length": 32, "training": {"epochs": 1}}

# One value for every key that can change a result, none of them the default or that of SMALL.
OTHERS: list[dict[str, Any]] = [
    {"remove": "1"},
    {"form": "portable"},
    {"repair": "none"},
    {"repair": "fold"},
    {"search_budget": 2},
    {"fast": True},
    {"avoid_massive": True},
    {"keep_parameters": "70K", "remove": None},
    {"keep_memory": "280kB", "remove": None},
    {"layers": "2,4"},
    {"text": []},
    {"synthetic_share": 0.3},
    {"bos": "never"},
    {"for_engines": ["llama.cpp"]},
    {"samples": 7},
    {"length": 24},
    {"calibration_length": 20},
    {"seed": 5},
    {"dtype": "bfloat16"},
    {"training": {"loss": "relative"}},
    {"training": {"learning_rate": 1e-3}},
    {"training": {"min_learning_rate": 1e-5}},
    {"training": {"weight_decay": 0.1}},
    {"training": {"warmup": 0.5}},
    {"training": {"clip": 0.1}},
    {"training": {"batch_tokens": 64}},
    {"training": {"epochs": 2}},
    {"training": {"validation": 0.4}},
    {"merge_search": {"rule": "mean"}},
    {"merge_search": {"norms": "merge"}},
    {"merge_search": {"combine": 2}},
    {"merge_search": {"low": 2}},
    {"merge_search": {"high": 5}},
    {"merge_search": {"interval": 1}, "remove": None},
    {"merge_search": {"threshold": -0.9}, "remove": None},
    {"merge_search": {"representation": "per-token"}},
    {"merge_search": {"words": 6}},
]


def settings(preset: str, other: dict[str, Any]) -> dict[str, Any] | None:
    """`other` on top of what is small; None where the preset does not take it."""
    own = presets()[preset].settings
    if "heal" in own:
        return None  # on more text than there is; tests/test_cut_and_heal.py
    recipe = build_recipe({"preset": preset})
    foreign = foreign_settings(recipe.select, recipe.network, recipe.repair)
    keys = [
        name
        for key, value in other.items()
        for name in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])
    ]
    if any(key in foreign for key in keys) or any(
        value is not None and own.get(key) == value for key, value in other.items()
    ):
        return None
    merged = {**SMALL, **other, "preset": preset}
    merged["training"] = {**SMALL["training"], **other.get("training", {})}  # type: ignore[dict-item]
    merged["merge_search"] = {**own.get("merge_search", {}), **other.get("merge_search", {})}
    if merged.get("dtype") == "bfloat16" and "keep_memory" in merged:
        merged["keep_memory"] = "140kB"
    if recipe.select == "taylor" and merged["remove"] == "2":
        merged["remove"] = "1"
    if recipe.select == "given":
        merged = {key: value for key, value in merged.items() if key != "remove"} | {
            "layers": other.get("layers", "1,3")
        }
        if "remove" in other:
            return None
    try:
        build_recipe({"text": ["some"], **merged})
    except RecipeError:  # refused, so there is nothing to compare
        return None
    return merged


def warnings(errors: str) -> set[str]:
    return {line for line in errors.splitlines() if line.startswith("warning")}


def check(main: Main, folder: Path, text: Path, place: Path, recipe: dict[str, Any]) -> None:
    file = place / "recipe.yaml"
    place.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({"model": str(folder), "text": [str(text)], **recipe}))
    status, _, told = main("run", "--recipe", file, "--out", place / "run", "--quiet")
    assert status == 0, told
    status, _, errors = main("plan", "--recipe", file, "--out", place / "plan.json", "--quiet")
    assert status == 0, errors
    status, _, errors = main("apply", folder, place / "plan.json", "--out", place / "apply", "--quiet")
    assert status == 0, errors
    assert warnings(errors) <= warnings(told)  # nothing of the plan, that is
    ran, applied = place / "run", place / "apply"
    for name in sorted(one.name for one in ran.glob("*.safetensors")):
        assert (applied / name).read_bytes() == (ran / name).read_bytes()
    assert json.loads((place / "plan.json").read_text())["edits"] == plan_of(ran)["edits"]
    assert plan_of(applied) == plan_of(ran)
    assert (applied / "lowrise/recipe.yaml").read_text() == (ran / "lowrise/recipe.yaml").read_text()


def plan_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "lowrise/plan.json").read_text())
    return found


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Both values; None where one key would have two."""
    merged = dict(first)
    for key, value in second.items():
        if isinstance(value, dict) and not value.keys() & merged.get(key, {}).keys():
            merged[key] = {**merged.get(key, {}), **value}
        elif key in merged:
            return None
        else:
            merged[key] = value
    return merged


def groups(preset: str) -> list[dict[str, Any]]:
    """Every value that the preset takes, in few cases: each joins the first group that takes it, up to MOST of them.

    Another repair stands alone: it may make nothing of the others.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    for other in OTHERS:
        if settings(preset, other) is None:
            continue
        for place, (size, group) in enumerate(found):
            merged = None if "repair" in {*group, *other} else together(group, other)
            if size < MOST and merged is not None and settings(preset, merged) is not None:
                found[place] = (size + 1, merged)
                break
        else:
            found.append((1, other))
    return [group for _, group in found]


MOST = 6
CASES = [
    pytest.param(preset, group, id=f"{preset}-{json.dumps(group)}", marks=pytest.mark.slow)
    for preset in presets()
    for group in groups(preset)
]
# of the cases, in the fast suite: every kind of edit, and what earlier plans did not hold
FAST = [
    ("refit", {"training": {"validation": 0.4}}),
    ("streamline-ffn", {"training": {"validation": 0.4}}),
    ("replaceme", {"samples": 7}),
    ("laco", {"repair": "fold"}),
    ("streamline-none", {"text": []}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of seven layers, so that every preset may take some out, and a tokenizer with BOS."""
    return tiny.save(tmp_path_factory.mktemp("models") / "seven", template="<s> $A", num_hidden_layers=7)


@pytest.fixture
def weights_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page, and as little text of the models as there can be: a plan and its weights do not hang on them."""
    request.getfixturevalue("main")  # whose models write a little more
    monkeypatch.setattr("lowrise.pipeline.building.build_report", lambda _folder: {})
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 1)
    monkeypatch.setattr("lowrise.measure.greedy_text.NEW_TOKENS", 1)


@pytest.mark.usefixtures("weights_alone")
@pytest.mark.parametrize(("preset", "other"), [*FAST, *CASES])
def test_plan_and_apply_make_what_run_makes(
    main: Main, folder: Path, text_file: Path, tmp_path: Path, preset: str, other: dict[str, Any]
) -> None:
    recipe = settings(preset, other)
    assert recipe is not None
    check(main, folder, text_file, tmp_path / "case", recipe)


def test_every_key_of_a_recipe_that_decides_a_result_is_tried() -> None:
    """A new key must be tried here, or said to decide nothing."""
    nothing = {"model", "preset", "select", "network", "dataset", "tokens", "strict", "max_ram", "eval_text", "windows"}
    nothing |= {"keep_latency"}  # a number of layers that hangs on the machine's load: `run` and `plan` may differ
    nothing |= {"heal"}  # after a plan, of which it is no part: tests/test_cut_and_heal.py
    nothing |= {"speed", "tasks", "task_dir", "limit", "fewshot", "device", "memory"}
    nothing |= {"trust_remote_code", "allow_pickle"}
    tried = {key for other in OTHERS for key in other}
    assert tried | nothing == {*Recipe.model_fields}
    for nested in ("training", "merge_search"):
        inner = {key for other in OTHERS for key in other.get(nested, {})}
        assert inner == {*type(getattr(Recipe(), nested)).model_fields}


class TestTexts:
    @pytest.fixture
    def planned(self, main: Main, folder: Path, text_file: Path, tmp_path: Path) -> tuple[Path, Path]:
        """A plan that is fitted, and its text."""
        text, plan = tmp_path / "mine.txt", tmp_path / "plan.json"
        text.write_bytes(text_file.read_bytes())
        common = ["--preset", "replaceme", "--remove", "2", "--samples", "6", "--length", "24", "--quiet"]
        assert main("plan", folder, *common, "--text", text, "--out", plan)[0] == 0
        return plan, text

    def test_a_text_that_has_moved_is_asked_for_and_known_by_its_hash(
        self, main: Main, folder: Path, tmp_path: Path, planned: tuple[Path, Path]
    ) -> None:
        plan, text = planned
        moved = text.rename(tmp_path / "elsewhere.txt")
        status, _, errors = main("apply", folder, plan, "--out", tmp_path / "out", "--quiet")
        assert status == 2
        assert errors.count("\n") == 1
        assert f"{text}: expected the text that {plan} was made from, sha256" in errors
        assert "found nothing to read there; give it with --text" in errors
        assert not (tmp_path / "out").exists()
        status, _, errors = main("apply", folder, plan, "--text", moved, "--out", tmp_path / "out", "--quiet")
        assert status == 0, errors
        assert yaml.safe_load((tmp_path / "out/lowrise/recipe.yaml").read_text())["text"] == [str(moved)]

    def test_a_text_that_has_changed_is_refused(
        self, main: Main, folder: Path, tmp_path: Path, planned: tuple[Path, Path]
    ) -> None:
        plan, text = planned
        text.write_text(text.read_text() + "more")
        for given in ([], ["--text", text]):
            status, _, errors = main("apply", folder, plan, *given, "--out", tmp_path / "out", "--quiet")
            assert (status, errors.count("\n")) == (2, 1)
            assert "found another text" in errors

    def test_another_dataset_or_synthetic_share_is_refused(
        self, main: Main, folder: Path, tmp_path: Path, planned: tuple[Path, Path]
    ) -> None:
        for option, value in (("--dataset", "other"), ("--synthetic-share", "0.5")):
            status, _, errors = main("apply", folder, planned[0], option, value, "--out", tmp_path / "out", "--quiet")
            assert (status, errors.count("\n")) == (2, 1)
            assert f"{option}: expected" in errors
            assert "as the plan was made with" in errors

    def test_texts_are_taken_in_the_plans_order(self, main: Main, folder: Path, tmp_path: Path) -> None:
        files = [tmp_path / "a.txt", tmp_path / "b.txt"]
        for seed, file in enumerate(files):
            file.write_text(tiny.text(300, seed))
        given = [["--text", file] for file in files]
        common = ["--preset", "replaceme", "--remove", "2", "--samples", "6", "--length", "24", "--quiet"]
        assert main("plan", folder, *common, *given[0], *given[1], "--out", tmp_path / "plan.json")[0] == 0
        status, _, errors = main(
            "apply", folder, tmp_path / "plan.json", *given[1], *given[0], "--out", tmp_path / "out", "--quiet"
        )
        assert status == 0, errors


def test_a_plan_of_format_1_still_opens(main: Main, folder: Path, text_file: Path, tmp_path: Path) -> None:
    """Made by 0.4: neither BOS nor where its texts are, which must be given."""
    common = ["--preset", "streamline", "--remove", "2", "--samples", "6", "--length", "24", "--quiet"]
    plan = tmp_path / "plan.json"
    given = ["--text", text_file, "--bos", "never"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 1, validation: 0.3}\n")
    assert main("run", folder, *common, *given, "--recipe", recipe, "--out", tmp_path / "run")[0] == 0
    old = plan_of(tmp_path / "run")
    for key in ("settings", "versions"):
        del old[key]
    for key in ("sources", "dataset", "written", "bos", "held_out"):
        del old["calibration"][key]
    old["edits"][0]["training"]["validation"] = 0.3
    plan.write_text(json.dumps(old | {"format": 1}))
    status, _, errors = main("apply", folder, plan, "--out", tmp_path / "out", "--quiet")
    assert status == 2
    assert "a plan of format 1 does not say where they are" in errors
    status, _, errors = main("apply", folder, plan, "--text", text_file, "--out", tmp_path / "out", "--quiet")
    assert status == 0, errors
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()
    assert plan_of(tmp_path / "out")["format"] == 2


def test_other_versions_are_said(main: Main, folder: Path, text_file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    common = ["--preset", "replaceme", "--remove", "2", "--samples", "6", "--length", "24", "--quiet"]
    assert main("plan", folder, *common, "--text", text_file, "--out", plan)[0] == 0
    content = json.loads(plan.read_text())
    assert {"lowrise", "torch", "transformers", "device", "dtype"} <= content["versions"].keys()
    content["versions"]["torch"] = "1.0"
    plan.write_text(json.dumps(content))
    status, _, errors = main("apply", folder, plan, "--out", tmp_path / "out", "--quiet")
    assert status == 0, errors
    assert "the plan was made with torch 1.0, here " in errors
