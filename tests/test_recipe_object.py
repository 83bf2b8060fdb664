"""`Recipe` in Python: a preset's settings resolve inside the model, and what is resolved stays as it is."""

from __future__ import annotations

import json

import pytest
import yaml
from pydantic import ValidationError

from lowrise.errors import RecipeError
from lowrise.planned import settings_of
from lowrise.recipe import Recipe, build_recipe, presets
from lowrise.settings import OLDER_KEYS, Heal, MergeSearch


@pytest.mark.parametrize("name", presets())
def test_a_preset_named_in_python_is_what_the_command_line_makes_of_it(name: str) -> None:
    recipe = Recipe(model="m", preset=name)
    assert recipe == build_recipe({"model": "m", "preset": name})
    settings = presets()[name].settings
    parts = {"merge_search", "heal"}
    assert {key: getattr(recipe, key) for key in settings if key not in parts} == {
        key: value for key, value in settings.items() if key not in parts
    }
    assert recipe.heal == (Heal(**settings["heal"]) if "heal" in settings else None)


def test_no_preset_is_refit_with_its_settings() -> None:
    recipe = Recipe(model="m", remove="2")
    assert (recipe.preset, recipe.select, recipe.network, recipe.repair) == ("refit", "refit", "none", "refit")
    assert Recipe() == build_recipe({})


@pytest.mark.parametrize(
    ("older", "name"), [("collapse", "merge-search"), ("repaired", "refit"), ("repaired-span", "refit-span")]
)
def test_a_criterion_is_known_by_its_older_name_which_plans_keep(older: str, name: str) -> None:
    recipe = build_recipe({"select": older})
    assert recipe == build_recipe({"select": name})
    assert recipe.select == name
    assert settings_of(recipe, None)["select"] == older


@pytest.mark.parametrize("name", presets())
def test_a_resolved_recipe_is_stable(name: str) -> None:
    """Through its file, a copy, validation and an assignment."""
    recipe = Recipe(preset=name, seed=3)
    assert Recipe(**yaml.safe_load(yaml.safe_dump(recipe.model_dump()))) == recipe
    assert Recipe.model_validate(recipe) == recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    other = recipe.model_copy(update={"remove": "3"})
    other.seed = 4
    assert other == recipe.model_copy(update={"remove": "3", "seed": 4})


def test_what_is_given_wins_over_the_preset() -> None:
    assert Recipe(preset="refit", repair="none").repair == "none"
    assert Recipe(preset="laco", samples=3).samples == 3
    assert Recipe(length=100).calibration_length is None
    assert Recipe(length=100, calibration_length=50).calibration_length == 50
    for search in (MergeSearch(words=8), {"words": 8}):
        merged = Recipe(preset="laco-mean", merge_search=search).merge_search  # type: ignore[arg-type]
        assert (merged.rule, merged.words) == ("mean", 8)


def test_older_spellings_of_keys_are_read() -> None:
    """In a recipe file and in Python, at every depth of precedence; a key in both spellings is refused."""
    given = {"preset": "refit", "effort": 3, "text": ["a"], "written": 0.25}
    for recipe in (Recipe(**given), build_recipe({"search_budget": 2}, given)):
        assert (recipe.search_budget, recipe.synthetic_share) == (3, 0.25)
        assert not OLDER_KEYS.keys() & recipe.model_dump().keys()
    assert build_recipe({"effort": 2}, {"search_budget": 4}).search_budget == 4
    healed = build_recipe({"heal": {"tokens": "1k", "written": 0.5}}, {"heal": {"synthetic_share": 0.25}}).heal
    assert healed == Heal(tokens="1k", synthetic_share=0.25)
    assert build_recipe({"heal": "1k"}, {"heal": {"written": 0.5}}).heal == Heal(tokens="1k", synthetic_share=0.5)
    assert Recipe(preset="laco", collapse={"words": 8}).merge_search == MergeSearch(rule="sum", words=8)  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match="search_budget and effort: expected one of them, found both"):
        Recipe(effort=2, search_budget=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "written"), [(1, "1"), (2.0, "2"), ("0.25", "0.25"), ("3", "3")], ids=["int", "float", "share", "text"]
)
def test_a_budget_is_written_as_people_write_it(given: object, written: str) -> None:
    """Whole ones as in plans that knew no others."""
    recipe = build_recipe({"search_budget": given})
    assert json.dumps(recipe.model_dump()["search_budget"]) == written
    assert json.loads(recipe.model_dump_json())["search_budget"] == recipe.search_budget


def test_fast_gives_settings_of_its_own_and_what_is_given_wins() -> None:
    fast = build_recipe({"fast": True})
    assert (fast.select, fast.samples, fast.search_budget, fast.repair) == ("refit-span", 32, 0.5, "refit")
    assert build_recipe({"fast": True}, {"samples": 64}).samples == 64
    assert build_recipe(fast.model_dump()) == fast
    with pytest.raises(RecipeError, match=r"--fast: expected a preset that has settings for it: refit.*found tail"):
        build_recipe({"preset": "tail", "fast": True})


def test_an_unknown_preset_is_an_error_in_python_too() -> None:
    with pytest.raises(RecipeError, match=r"'streamlin'.*did you mean streamline"):
        Recipe(preset="streamlin")
    with pytest.raises(ValidationError, match="frozen"):  # its settings are in the others already
        Recipe().preset = "laco"


def test_what_a_preset_does_not_look_at_is_refused_in_python_too() -> None:
    with pytest.raises(ValidationError, match="expected presets that search merges, found refit, which does not"):
        Recipe(preset="refit", merge_search=MergeSearch(words=3))
