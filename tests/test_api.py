"""The Python API: the command's bytes, on models in memory."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import tiny
from lowrise import api
from lowrise.errors import ModelError, PlanError, RecipeError, TextError
from lowrise.plan import Drop

Main = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::lowrise.api.progress.LowriseWarning")


@pytest.fixture
def model(here: Path) -> lowrise.Model:  # noqa: ARG001 - the folder it lies in
    return lowrise.open("org/name", device="cpu")


@pytest.fixture
def live() -> Any:
    return tiny.model(max_position_embeddings=32)


def weights(folder: Path | str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


def windows(rows: int = 8, seed: int = 0) -> Any:
    return lowrise.tokens(tiny.ids(rows, 16, seed))


# -- names ----------------------------------------------------------------------------------------------------------


def test_public_names_are_there_without_torch_until_one_is_used() -> None:
    code = """
import sys, lowrise
heavy = lambda: {"torch", "transformers", "pydantic"} & {*sys.modules}
assert not heavy() and set(lowrise.__all__) <= set(dir(lowrise)), heavy()
assert issubclass(lowrise.LowriseError, Exception) and not heavy()
assert all(map(callable, (lowrise.plan, lowrise.heal, lowrise.measure, lowrise.compare))) and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    names: dict[str, Any] = {}
    exec("from lowrise import *", names)  # noqa: S102 - what is tested
    assert {*lowrise.__all__} <= names.keys()
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = lowrise.opne


@pytest.mark.parametrize("name", ["plan", "measure", "compare", "heal"])
def test_a_module_of_a_function_s_name_is_called_as_that_function(name: str) -> None:
    found, function = getattr(lowrise, name), getattr(api, name)
    assert inspect.signature(found) == inspect.signature(function)
    assert inspect.getdoc(found) == inspect.getdoc(function)
    assert found is sys.modules[f"lowrise.{name}"]


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "import lowrise\n"
        "model: lowrise.Model = lowrise.open('org/name')\n"
        "made: lowrise.Plan = lowrise.plan(model, lowrise.tokens([[1, 2]]), preset='refit', remove='25%')\n"
        "found: lowrise.Results = lowrise.measure(lowrise.apply(model, made), dense=model)\n"
        "lowrise.measure(model, dense=3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", "--strict", "user.py"]
    config = ["--config-file", str(ROOT / "pyproject.toml")]
    environment = {"MYPYPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run(
        [*command, *config], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert re.findall(r"^user.py:(\d+): error", done.stdout, re.M) == ["5"], done.stdout + done.stderr


# -- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", api.__all__)
@pytest.mark.usefixtures("here")
def test_the_examples_of_docstrings_run(name: str) -> None:
    names = {"lowrise": lowrise, "hf_model": tiny.model(), "tokenizer": tiny.tokenizer()}
    found = [test for test in doctest.DocTestFinder().find(getattr(api, name), name, globs=names) if test.examples]
    assert found or name == "LowriseWarning"
    for test in found:
        done = doctest.DocTestRunner().run(test)
        assert done.failed == 0, f"{test.name}: see the captured output"


def test_every_public_function_says_types_and_errors() -> None:
    for name in api.__all__:
        one = getattr(api, name)
        for function in [one] if inspect.isfunction(one) else [one.save] if one is api.Model else []:
            assert "Raises" in (function.__doc__ or ""), name
            signature = inspect.signature(function)
            said = {name for name in signature.parameters if name != "self"}
            assert said <= {*inspect.get_annotations(function)}, name


# -- the command's bytes --------------------------------------------------------------------------------------------

RECIPES: dict[str, dict[str, Any]] = {
    "refit": {},
    "replaceme": {"avoid_massive": True},
    "streamline": {"training": {"epochs": 2}},
    "laco": {"repair": "fold", "merge_search": {"combine": 2}},
    "given": {"layers": [1, 4], "repair": "fold"},
}


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        ("opened", "replaceme"),
        ("wrapped", "laco"),
        *(pytest.param("opened", preset, marks=pytest.mark.slow) for preset in RECIPES if preset != "replaceme"),
        pytest.param("wrapped", "refit", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("here")
def test_plan_apply_and_save_give_the_weights_of_run(
    preset: str, kind: str, main: Main, request: pytest.FixtureRequest
) -> None:
    if kind == "opened":
        request.getfixturevalue("regressions_alone")  # block reconstruction takes long: one is enough
    how = dict(RECIPES[preset])
    size = {} if "layers" in how else {"remove": 2}
    recipe = {"preset": preset, "text": ["a.txt"], "samples": 8, "length": 32, **size, **how}
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    status, _, err = main("run", "org/name", "--recipe", "recipe.yaml", "--device", "cpu", "--out", "ran", "--quiet")
    assert status == 0, err

    model = lowrise.open("org/name", device="cpu")
    if kind == "wrapped":
        model = lowrise.wrap(model.hf_model, model.tokenizer)
    tokens = lowrise.calibrate(model, text=["a.txt"], samples=8, length=32)
    plan = lowrise.plan(model, tokens, preset=preset, length=32, **size, **how)
    lowrise.apply(model, plan, tokens).save("saved")
    assert weights("saved") == weights("ran")
    ran, saved = (json.loads(Path(folder, "lowrise", "plan.json").read_text()) for folder in ("ran", "saved"))
    if kind == "wrapped":
        assert ran["model"].pop("sha256") != saved["model"].pop("sha256")
    assert saved == ran


@pytest.mark.usefixtures("here")
def test_sentences_of_a_merge_search_are_made_from_text_given_to_plan(main: Main) -> None:
    options = ("--preset", "laco", "--remove", 2, "--combine", 3, "--text", "a.txt", "--length", 32, "--device", "cpu")
    status, _, err = main("run", "org/name", *options, "--out", "ran", "--quiet")
    assert status == 0, err
    model = lowrise.open("org/name", device="cpu")
    how: dict[str, Any] = {"preset": "laco", "remove": 2, "merge_search": {"combine": 3}}
    with pytest.raises(TextError, match=r"text=\[...\] and no tokens, since laco looks at sentences"):
        lowrise.plan(model, windows(), **how)
    plan = lowrise.plan(model, text="a.txt", length=32, **how)
    lowrise.apply(model, plan).save("saved")
    assert weights("saved") == weights("ran")


@pytest.mark.usefixtures("here")
def test_a_plan_s_tokens_are_made_anew_where_none_are_given(model: lowrise.Model) -> None:
    tokens = lowrise.calibrate(model, "a.txt", samples=8, length=16, written=0.5)
    plan = lowrise.plan(model, tokens, layers=[2], repair="fold")
    Path("plan.json").write_text(plan.to_json(), encoding="utf-8")
    lowrise.apply(model, plan, tokens).save("given")
    other = lowrise.open("org/name", device="cpu")
    Path("a.txt").rename("moved.txt")
    with pytest.raises(PlanError, match=r"give it with --text"):
        lowrise.apply(other, "plan.json")
    lowrise.apply(other, "plan.json", text=["moved.txt"]).save("made-anew")
    assert weights("given") == weights("made-anew")


@pytest.mark.usefixtures("here")
def test_compare_asks_what_the_command_asks(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(one: Any, *_args: Any, **_how: Any) -> None:
        asked.append(one)
        raise RecipeError("here", "no row", "one", "stop")

    for place in ("lowrise.compare.compare", "lowrise.api.runs.compare_presets"):
        monkeypatch.setattr(place, stop)
    options = ("--presets", "tail,laco", "--remove", "2,25%", "--text", "a.txt", "--combine", 2, "--out", "compared")
    main("compare", "org/name", *options)
    with pytest.raises(RecipeError, match="no row"):
        lowrise.compare(
            "org/name", ["tail", "laco"], [2, "25%"], "compared", text=[Path("a.txt")], merge_search={"combine": 2}
        )
    assert asked[0] == asked[1]
    assert len(asked[0].recipes) == 4


# -- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids", [tiny.ids(4, 8), tiny.ids(4, 8).to(torch.int32), tiny.ids(4, 8).numpy(), tiny.ids(4, 8).tolist()]
)
def test_own_tokens_may_be_a_tensor_an_array_or_lists(ids: Any) -> None:
    made = lowrise.tokens(ids)
    assert torch.equal(made.ids, tiny.ids(4, 8))
    assert made.ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("ids", "fragment"),
    [
        ([[1, 2], [3]], "rows of equal length"),
        ([1, 2, 3], "the shape (3,)"),
        ([[1], [2]], "the shape (2, 1)"),
        ([[0.5, 1.5]], "float32"),
        ([[True, False]], "bool"),
        ([[1, -100]], "ids of 0 and above, found -100"),
        ("words", "whole numbers"),
    ],
)
def test_what_are_no_tokens_is_refused(ids: Any, fragment: str) -> None:
    with pytest.raises(TextError, match=re.escape(fragment)):
        lowrise.tokens(ids)


def test_tokens_that_the_model_does_not_know_or_cannot_hold_are_refused(model: lowrise.Model) -> None:
    with pytest.raises(TextError, match=str(tiny.VOCABULARY)):
        lowrise.plan(model, lowrise.tokens([[1, tiny.VOCABULARY]] * 4), preset="tail", remove=1)
    with pytest.raises(TextError, match="windows of 32 tokens at most"):
        lowrise.plan(model, lowrise.tokens(tiny.ids(4, 33)), preset="tail", remove=1)


@pytest.mark.usefixtures("here")
def test_a_plan_from_own_tokens_asks_for_them(model: lowrise.Model) -> None:
    plan = lowrise.plan(model, windows(), preset="tail", remove=1, repair="fold", seed=5)
    assert (plan.calibration.written, plan.calibration.seed, plan.calibration.samples) == (0, 5, 8)
    with pytest.raises(PlanError, match=r"tokens: expected ids of sha256 .* found none; give them"):
        lowrise.apply(model, plan)
    with pytest.raises(PlanError, match="as the plan was made from"):
        lowrise.apply(model, plan, windows(seed=1))
    assert not model.edited
    assert lowrise.apply(model, plan, windows()).layers == 5


def test_settings_that_contradict_the_tokens_are_refused(model: lowrise.Model) -> None:
    tokens = lowrise.calibrate(model, "a.txt", samples=8, length=16)
    with pytest.raises(RecipeError, match="--samples: expected 8, as the tokens were made with, found 9"):
        lowrise.plan(model, tokens, preset="tail", remove=1, samples=9)
    with pytest.raises(RecipeError, match="--text: expected no such setting beside tokens"):
        lowrise.plan(model, windows(), preset="tail", remove=1, text=["a.txt"])
    assert lowrise.plan(model, tokens, preset="tail", remove=1, text=["a.txt"], samples=8, seed=0).layers_after == 5


# -- plans ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_of_one_model(model: lowrise.Model, live: Any) -> None:
    plan = lowrise.plan(model, windows(), preset="tail", remove=1)
    with pytest.raises(PlanError, match="expected a model with sha256"):
        lowrise.apply(lowrise.wrap(live, tiny.tokenizer()), plan)
    with torch.no_grad():
        live.lm_head.weight += 1
    wrapped = lowrise.wrap(live, tiny.tokenizer())
    plan = lowrise.plan(wrapped, windows(), preset="tail", remove=1)
    with torch.no_grad():
        live.lm_head.weight -= 1
    with pytest.raises(PlanError, match="expected a model with sha256"):
        lowrise.apply(wrapped, plan)


def test_what_follows_from_edits_made_by_hand_is_counted_anew(model: lowrise.Model) -> None:
    plan = lowrise.plan(model, windows(), preset="tail", remove=1)
    plan.edits = [Drop(start=0, stop=1), Drop(start=3, stop=5)]
    small = lowrise.apply(model, plan)
    assert small.plan is not None
    assert (small.layers, small.plan.layers_after) == (3, 3)
    assert small.plan.parameters_after == small.parameters
    assert small.plan.scores["held_out"]["after"] is None  # of other edits

    with pytest.raises(ModelError, match="expected a model to which no plan was applied"):
        lowrise.apply(small, plan)
    plan.edits = [Drop(start=0, stop=2), Drop(start=1, stop=3)]
    with pytest.raises(PlanError, match="edits overlap at layer 1"):
        lowrise.apply(lowrise.open("org/name", device="cpu"), plan)


def test_what_a_repair_did_to_the_loss_is_in_the_plan_that_was_applied(model: lowrise.Model) -> None:
    plan = lowrise.plan(model, windows(), preset="refit-span", remove=2)
    assert plan.scores["held_out"]["after"] is None
    small = lowrise.apply(model, plan, windows())
    assert small.plan is not None
    assert small.plan.scores["held_out"]["after"] > 0
    assert lowrise.measure(small).repairs


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"preset": "refitt"}, ("--preset", "refitt")),
        ({"remove": "120%"}, ("--remove", "120%")),
        ({"layers": "9-12"}, ("--layers", "9-12")),
        ({"preset": "tail", "search_budget": 2}, ("--preset", "tail", "--search-budget", 2)),
    ],
)
def test_errors_are_the_lines_of_the_command(
    settings: dict[str, Any], options: tuple[object, ...], model: lowrise.Model, main: Main
) -> None:
    with pytest.raises(lowrise.LowriseError) as raised:
        lowrise.plan(model, text="a.txt", **settings)
    _, _, err = main("plan", "org/name", *options, "--text", "a.txt", "--device", "cpu", "--out", "plan.json")
    assert err.splitlines()[-1] == f"lowrise: {raised.value}"
    with pytest.raises(RecipeError, match="'sampels'; did you mean samples"):
        lowrise.plan(model, sampels=3)
