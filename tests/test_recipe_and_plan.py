"""Recipes, presets and plans: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowrise.errors import PlanError, RecipeError
from lowrise.plan import CalibrationRecord, Drop, ModelRecord, Plan, Replace, check_plan_fits, read_plan
from lowrise.recipe import build_recipe, presets, read_recipe
from lowrise.sizes import layers_to_remove

MODEL = ModelRecord(source="m", family="llama", layers=30, sha256="ab")
CALIBRATION = CalibrationRecord(source="t", tokens=8, sha256="cd", seed=0, samples=2, length=4)


def plan(**changes: object) -> Plan:
    settings = {
        "model": MODEL,
        "preset": "streamline",
        "calibration": CALIBRATION,
        "edits": [Replace(start=10, stop=19, network="layer")],
        "layers_after": 22,
        "parameters_before": 100,
        "parameters_after": 80,
    }
    return Plan(**{**settings, **changes})


@pytest.mark.parametrize("name", presets())
def test_every_preset_that_ships_is_a_valid_recipe_with_a_paper(name: str) -> None:
    preset = presets()[name]
    assert build_recipe({"preset": name}).preset == name
    if name in ("refit", "refit-span", "given"):  # lowrise's own
        assert preset.paper is None
    else:
        assert preset.paper is not None
        assert preset.paper.startswith("https://")
    assert preset.summary


@pytest.mark.parametrize(
    ("name", "plain"),
    [("streamline", True), ("streamline-none", True), ("streamline-ffn", False), ("streamline-swiglu", False)],
)
def test_presets_say_whether_their_output_loads_plainly(name: str, plain: bool) -> None:
    assert presets()[name].loads_plainly is plain
    if plain:  # there is no other form of it to ask for
        with pytest.raises(RecipeError, match="--form: expected presets that put a network of two forms back"):
            build_recipe({"preset": name, "form": "portable"})
    else:
        assert build_recipe({"preset": name, "form": "portable"}).loads_plainly


def test_the_preset_gives_defaults_the_file_overrides_them_and_the_command_line_wins() -> None:
    recipe = build_recipe(
        {"preset": "streamline-ffn", "seed": 1, "training": {"epochs": 3, "clip": 1.0}},
        {"seed": 2, "training": {"loss": "relative"}},
    )
    assert (recipe.network, recipe.seed) == ("ffn", 2)
    assert (recipe.training.epochs, recipe.training.clip, recipe.training.loss) == (3, 1.0, "relative")


@pytest.mark.parametrize(
    ("given", "calibration", "perplexity"),
    [
        ({"preset": "refit"}, 512, 2048),
        ({"preset": "refit-span"}, 512, 2048),
        ({"preset": "streamline"}, 2048, 2048),
        ({"preset": "refit", "length": 1024}, 1024, 1024),
        ({"preset": "refit", "length": 1024, "calibration_length": 256}, 256, 1024),
        ({"preset": "streamline", "calibration_length": 256}, 256, 2048),
    ],
)
def test_a_length_that_is_given_is_that_of_all_windows(
    given: dict[str, object], calibration: int, perplexity: int
) -> None:
    recipe = build_recipe(given)
    again = build_recipe(recipe.model_dump())  # as in the output folder
    assert [(made.fitted_length, made.length) for made in (recipe, again)] == [(calibration, perplexity)] * 2


def test_a_fold_alone_names_its_objective() -> None:
    edits = [Drop(start=1, stop=2, repair=how) for how in ("none", "refit", "fold", "fold-cosine")]
    span = {"start": 1, "stop": 2}
    assert [edit.model_dump() for edit in edits] == [
        {**span, "kind": "drop"},
        {**span, "kind": "refit"},
        {**span, "kind": "fold", "objective": "least-squares"},
        {**span, "kind": "fold", "objective": "cosine"},
    ]
    assert [Drop.model_validate(edit.model_dump()).repair for edit in edits] == ["none", "refit", "fold", "fold-cosine"]


def test_the_papers_training_settings_are_the_defaults() -> None:
    """METHODS 1.3: AdamW 2e-4 to 5e-5, weight decay 1e-3, clip 5."""
    training = build_recipe({}).training
    assert (training.learning_rate, training.min_learning_rate) == (2e-4, 5e-5)
    assert (training.weight_decay, training.clip, training.loss) == (1e-3, 5.0, "mse")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "streamlin"}, "did you mean streamline"),
        ({"samles": 3}, "did you mean samples"),
        ({"training": {"epoch": 3}}, "did you mean epochs"),
        ({"samples": 0}, "samples"),
        ({"network": "mlp"}, "network"),
        ({"preset": "laco", "calibration_length": 64}, "presets that look at windows, found laco, which does not"),
        ({"training": {"learning_rate": 1e-5}}, "min_learning_rate must not exceed learning_rate"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_in_one_line(given: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        build_recipe(given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_bare_number_in_yaml_is_a_number_of_layers(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("preset: streamline-none\nremove: 8\n")
    assert build_recipe(read_recipe(file)).remove == "8"


@pytest.mark.parametrize(
    ("remove", "layers", "count"), [("8", 30, 8), ("25%", 32, 8), ("25%", 30, 8), ("3.4%", 30, 1), ("29", 30, 29)]
)
def test_layers_to_remove(remove: str, layers: int, count: int) -> None:
    assert layers_to_remove(remove, layers) == count


@pytest.mark.parametrize(
    "remove", ["0", "-1", "30", "31", "2.5", "eight", "", "100%", "0%", "-5%", "nan%", "inf", "1%"]
)
def test_impossible_removals_are_refused(remove: str) -> None:
    with pytest.raises(RecipeError, match="--remove"):
        layers_to_remove(remove, 30)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan().to_json())
    assert read_plan(file) == plan()


def test_the_plan_file_has_the_keys_that_the_design_promises() -> None:
    content = json.loads(plan().to_json())
    promised = {"format", "model", "preset", "calibration", "edits", "scores", "layers_after"}
    assert promised | {"parameters_before", "parameters_after"} <= content.keys()
    assert content["format"] == 2
    assert {"source", "revision", "family", "layers", "sha256"} == content["model"].keys()
    seen = {"sources", "written", "tokens", "sha256", "seed", "bos", "held_out"}
    assert seen <= content["calibration"].keys()
    assert "settings" in content
    assert {"kind": "replace", "start": 10, "stop": 19}.items() <= content["edits"][0].items()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edits": [Drop(start=2, stop=5), Drop(start=4, stop=6)], "layers_after": 25}, "overlap"),
        ({"edits": [Drop(start=25, stop=31)], "layers_after": 24}, "past the model's 30"),
        ({"layers_after": 21}, "the edits leave 22"),
    ],
)
def test_a_plan_that_does_not_add_up_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(**changes)


@pytest.mark.parametrize("field", ["family", "layers", "sha256"])
def test_a_plan_for_another_model_is_refused_by_the_first_difference(field: str) -> None:
    other = MODEL.model_copy(update={field: {"family": "opt", "layers": 31, "sha256": "zz"}[field]})
    with pytest.raises(PlanError, match=f"a model with {field}"):
        check_plan_fits(plan(), other)
