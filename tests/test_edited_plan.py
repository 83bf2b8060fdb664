"""Plans that a user has changed by hand: what comes of them is said truly, and what contradicts itself is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowrise.errors import PlanError
from lowrise.plan import Plan, read_plan
from lowrise.planned import recipe_of_plan, true_to_edits
from lowrise.scores import LorpScores, scores_of
from refusals import Main, assert_one_line

SMALL = ["--samples", "6", "--length", "24", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def made(tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plain drops of two layers, by the span whose ends are most alike."""
    from lowrise.pipeline import make_plan
    from lowrise.progress import Reporter
    from lowrise.recipe import build_recipe

    asked = {"model": str(tiny_folder), "preset": "streamline-none", "remove": "2", "text": [str(text_file)]}
    recipe = build_recipe(asked, {"samples": 6, "length": 24, "device": "cpu"})
    out = tmp_path_factory.mktemp("plan") / "plan.json"
    plan: dict[str, Any] = json.loads(make_plan(recipe, Reporter(quiet=True), out).to_json())
    return plan


@pytest.fixture
def plan(made: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(made)


def refused(tmp_path: Path, plan: dict[str, Any]) -> str:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(PlanError) as error:
        read_plan(file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loads_plainly": False}, "loads_plainly is False, but what the edits leave does"),
        ({"edits": [], "layers_after": 6}, "there are no edits"),
        ({"settings": {"removed": -1}}, "settings.removed is -1, no number of layers"),
        ({"calibration": {"tokens": 100}}, "calibration.tokens is 100, but 6 samples of 24 are 144"),
        ({"calibration": {"tokens": 145}}, "calibration.tokens is 145, but 6 samples of 24 are 144"),
        ({"scores": {"criterion": "angular"}}, "scores.criterion is 'angular', but settings.select 'cosine'"),
        ({"settings": {"select": "tail"}}, "scores.criterion is 'cosine', but settings.select 'tail'"),
    ],
)
def test_what_contradicts_itself_is_refused_when_it_is_opened(
    plan: dict[str, Any], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    for key, value in changes.items():
        plan[key] = {**plan[key], **value} if isinstance(value, dict) else value
    assert says in refused(tmp_path, plan)


def test_a_map_of_the_stream_does_not_load_plainly(plan: dict[str, Any], tmp_path: Path) -> None:
    plan["edits"][0]["repair"] = "ghosted"
    assert "loads_plainly is True, but what the edits leave does not" in refused(tmp_path, plan)
    del plan["loads_plainly"]
    assert not Plan.model_validate(plan).loads_plainly


def test_a_mistyped_repair_is_answered_with_its_nearest(plan: dict[str, Any], tmp_path: Path) -> None:
    plan["edits"][0]["repair"] = "ghostd"
    assert "found 'ghostd'; did you mean ghosted? Or install the package that has it" in refused(tmp_path, plan)


@pytest.mark.parametrize("field", ["parameters_before", "parameters_after"])
def test_parameters_that_the_edits_do_not_leave(
    main: Main, tiny_folder: Path, plan: dict[str, Any], tmp_path: Path, field: str
) -> None:
    file, right = tmp_path / "plan.json", plan[field]
    file.write_text(json.dumps(plan | {field: right + 1}), encoding="utf-8")
    said = main("apply", tiny_folder, file, "--quiet", "--device", "cpu", "--out", tmp_path / "out")
    assert_one_line(*said, (f"expected {field} {right}", f"found {right + 1}"))


def test_the_recipe_says_what_edits_do_that_were_changed(
    main: Main, tiny_folder: Path, plan: dict[str, Any], tmp_path: Path
) -> None:
    """One layer less, and a fold: plan and recipe of the output say both, and nothing is said of other edits' loss."""
    layer = (plan["parameters_before"] - plan["parameters_after"]) // 2
    plan["edits"] = [{"kind": "fold", "start": 2, "stop": 3}]
    plan |= {"layers_after": 5, "parameters_after": plan["parameters_before"] - layer}
    file, out, before = tmp_path / "plan.json", tmp_path / "out", plan["scores"]["held_out"]["after"]
    file.write_text(json.dumps(plan), encoding="utf-8")
    status, _, errors = main("apply", tiny_folder, file, "--quiet", "--device", "cpu", "--out", out)
    assert status == 0, errors
    assert "changed by hand: beside preset streamline-none its recipe now says remove 1, repair fold" in errors
    recipe = yaml.safe_load((out / "lowrise/recipe.yaml").read_text(encoding="utf-8"))
    written = json.loads((out / "lowrise/plan.json").read_text(encoding="utf-8"))
    for settings in (recipe, written["settings"]):
        assert (settings["repair"], settings["remove"], settings["network"]) == ("fold", "1", "none")
    assert written["scores"]["held_out"]["after"] not in (None, before)
    again = Plan.model_validate(written)
    assert true_to_edits(again) is again


def test_a_network_in_the_edits_is_in_the_recipe(plan: dict[str, Any]) -> None:
    edit = plan["edits"][0]
    edit |= {"kind": "replace", "network": "ffn", "form": "portable"}
    recipe = recipe_of_plan(Plan.model_validate(plan | {"layers_after": 5}), {}, "plan.json")
    assert (recipe.network, recipe.form, recipe.remove, recipe.preset) == ("ffn", "portable", "1", "streamline-none")


def test_layers_by_hand_are_those_of_the_edits(plan: dict[str, Any]) -> None:
    plan["settings"] |= {"select": "given", "layers": "1-2", "remove": None}
    plan |= {"preset": "given", "scores": {"criterion": "given"}, "edits": [{"kind": "drop", "start": 2, "stop": 4}]}
    assert recipe_of_plan(Plan.model_validate(plan), {}, "plan.json").layers == "2,3"


def test_a_plan_that_nobody_changed_stays(plan: dict[str, Any]) -> None:
    sound = Plan.model_validate(plan)
    assert true_to_edits(sound) is sound


def test_scores_of_lorp_are_typed(plan: dict[str, Any]) -> None:
    scores = {"criterion": "lorp", "layers": [1, 2], "locality": None, "clusters": [0] * 6, "redundancy": [0.5] * 6}
    plan["settings"]["select"] = "lorp"
    assert isinstance(scores_of(Plan.model_validate(plan | {"scores": scores})), LorpScores)
    for wrong in ({"clusters": [0]}, {"layers": "many"}, {"redundancy": None}):
        with pytest.raises(PlanError, match="what the criterion lorp finds"):
            scores_of(Plan.model_validate(plan | {"scores": scores | wrong}))
