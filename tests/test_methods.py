"""The table of methods: every row leads somewhere, and other packages add to it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from safetensors.torch import load_file

from doc_blocks import blocks
from lowrise import methods as table
from lowrise.errors import MethodError, RecipeError
from lowrise.methods import OF_SOME, Kind, Method, load, method, methods
from lowrise.plan import Drop, Merge, Replace
from lowrise.recipe import Recipe, _found_presets, build_recipe, presets

Offer = Callable[..., None]
ROWS = [row for kind in get_args(Kind) for row in methods(kind).values()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind} {row.name}")
def test_every_row_leads_somewhere(row: Method) -> None:
    for path in (row.function, row.check, row.on_networks, row.parameters):
        assert path is None or callable(load(path))
    for key in row.settings:
        first, _, inner = key.partition(".")
        field = Recipe.model_fields[first].default
        assert not inner or hasattr(field, inner)


def test_every_criterion_and_repair_is_in_a_preset_or_an_option() -> None:
    recipes = [preset.recipe for preset in presets().values()]
    assert {recipe.select for recipe in recipes} == {*methods("criterion")}
    assert {recipe.repair for recipe in recipes} == {"none", *methods("repair")}
    assert {recipe.network for recipe in recipes} == {"none", *methods("network")}


def test_an_unknown_name_is_answered_with_its_nearest() -> None:
    with pytest.raises(MethodError, match=r"repair 'fodl'.*did you mean fold"):
        method("repair", "fodl")
    with pytest.raises(RecipeError, match=r"--select: expected 'cosine', .*found 'cosin'; did you mean cosine"):
        build_recipe({"select": "cosin"})


def test_a_repair_without_a_kind_of_its_own_is_a_word_of_the_drop(offer: Offer) -> None:
    offer([made(name="swirl", kind="repair")])
    drop = Drop(start=1, stop=3, repair="swirl")
    assert drop.model_dump() == {"start": 1, "stop": 3, "kind": "drop", "repair": "swirl"}
    assert Drop.model_validate(drop.model_dump()) == drop
    assert Merge(start=1, stop=3, repair="swirl").model_dump()["repair"] == "swirl"
    with pytest.raises(ValueError, match="`repair: swirl` is none of a trained network"):
        Replace(start=1, stop=3, network="ffn", repair="swirl")
    with pytest.raises(ValueError, match="`repair: swirl` belongs to a drop, not to a refit"):
        Drop.model_validate({"start": 1, "stop": 3, "kind": "refit", "repair": "swirl"})


def test_what_a_row_says_decides_what_a_recipe_takes(offer: Offer) -> None:
    rows = [
        made(name="gaze", looks_at="states", settings=("avoid_massive",)),
        made(name="patch", kind="repair", loads_plainly=False),
        made(name="reader", looks_at="sentences"),
    ]
    offer(rows, {"gaze": {"summary": "Looks", "settings": {"select": "gaze", "network": "none"}}})
    assert Recipe(preset="gaze", avoid_massive=True, remove="2").loads_plainly
    assert not Recipe(preset="gaze", repair="patch").loads_plainly
    with pytest.raises(
        RecipeError, match="--search-budget: expected presets that search with repair, found gaze, which does not"
    ):
        build_recipe({"preset": "gaze", "search_budget": 2})
    with pytest.raises(RecipeError, match="--synthetic-share: expected presets that look at windows, found tail"):
        build_recipe({"preset": "tail", "select": "reader", "text": ["a"], "synthetic_share": 0.5})
    with pytest.raises(
        RecipeError, match="--repair patch: expected a preset that puts nothing back, found streamline, which puts a"
    ):
        build_recipe({"preset": "streamline", "repair": "patch"})


class TestOffers:
    """What other packages offer, and how what is none is refused: by the package's name."""

    @pytest.mark.parametrize(
        ("rows", "says"),
        [
            (["cosine"], "found str"),
            ([None], "found NoneType"),
            (5, "METHODS, rows, or PRESETS"),
            ([], "METHODS, rows, or PRESETS"),
        ],
    )
    def test_what_is_no_row(self, offer: Offer, rows: Any, says: str) -> None:
        offer(rows)
        with pytest.raises(MethodError, match=f"methods of the package odd .*{says}.*mend odd, or uninstall it"):
            methods("criterion")

    @pytest.mark.parametrize("name", ["cosine", "mine"])
    def test_a_name_that_is_taken(self, offer: Offer, name: str) -> None:
        offer([made(name=name), made(name=name)])
        with pytest.raises(MethodError, match=f"found {name}, which (lowrise|odd) has"):
            methods("criterion")

    def test_none_is_no_name(self, offer: Offer) -> None:
        offer([made(name="none", kind="repair")])
        with pytest.raises(MethodError, match="found none, which lowrise has"):
            methods("repair")

    def test_networks_come_from_lowrise_alone(self, offer: Offer) -> None:
        offer([Method(name="wide", kind="network", summary="wide network")])
        with pytest.raises(MethodError, match="rows of criteria and repairs, found the network wide"):
            methods("network")

    def test_a_module_that_cannot_be_imported(self, offer: Offer) -> None:
        offer(module="no_such_module_of_lowrise")
        with pytest.raises(MethodError, match=r"package odd .*a module that can be imported, found No module named"):
            methods("criterion")

    @pytest.mark.parametrize(
        ("preset", "says"),
        [
            ({"tail": {"summary": "Taken", "settings": {}}}, "a new name, found one that lowrise has"),
            ({"mine": {"summary": "None"}}, "preset mine of the package odd: expected summary, paper and settings"),
            ({"mine": ["tail"]}, "presets by name, each a mapping, found 'mine': list"),
            ({"mine": {"summary": "Odd", "settings": {"selct": "tail"}}}, "unknown key 'selct'"),
        ],
    )
    def test_what_is_no_preset(self, offer: Offer, preset: Any, says: str) -> None:
        offer([made(name="mine")], preset)
        with pytest.raises((MethodError, RecipeError), match=says) as refused:
            presets()
        assert "odd" in str(refused.value)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"name": "Mine"}, "small letters"),
            ({"kind": "measure"}, "none of criterion, repair, network"),
            ({"looks_at": "stars"}, "none of states, windows, sentences, nothing"),
            ({"function": "thin.weakest"}, "not `package.module:name`"),
            ({"function": None}, "a criterion or a repair has one"),
            ({"settings": ("seed",)}, f"'seed' is none of {', '.join(OF_SOME)}"),
            ({"stays": (1, -1)}, "stays of mine is (1, -1), no two numbers of layers"),
            ({"stays": 1}, "stays of mine is 1, no two numbers of layers"),
            ({"did": "{nothing}"}, "did of mine takes layers, matrices, first"),
        ],
    )
    def test_a_row_that_is_wrong_in_itself(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(ValueError, match=re.escape(says)):
            made(**{"name": "mine", **changes})

    def test_a_function_that_is_not_there(self) -> None:
        with pytest.raises(MethodError, match=r"lowrise.methods:nobody: expected a function that can be imported"):
            load("lowrise.methods:nobody")


def made(**changes: Any) -> Method:
    return Method(**{"kind": "criterion", "summary": "made up", "function": "lowrise.select.tail:choose", **changes})


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """Offers rows and presets as the installed package `odd` would."""
    caches = [table._outside, table._table, presets, _found_presets]

    def forget() -> None:
        for cached in caches:
            cached.cache_clear()

    def offering(rows: Any = (), named: Any = None, module: str = "odd_methods") -> None:
        if module == "odd_methods":
            monkeypatch.setitem(sys.modules, module, SimpleNamespace(METHODS=rows, PRESETS=named or {}))  # type: ignore[arg-type]
        entry = EntryPoint("odd", module, table.GROUP)
        monkeypatch.setattr(table, "entry_points", lambda group: [entry])  # noqa: ARG005
        monkeypatch.setattr(table, "_distribution", lambda _entry: "odd")
        forget()

    yield offering
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of docs/adding.md, installed in a folder of its own."""
    place = tmp_path_factory.mktemp("site")
    for block in blocks("docs/adding.md"):
        if block.file is not None:
            file = place / block.file
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.code, encoding="utf-8")
    about = place / "thin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: thin\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[lowrise.methods]\nthin = thin\n", encoding="utf-8")
    return place


def test_a_package_adds_a_criterion_a_repair_and_a_preset(
    package: Path, lowrise: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    with_it = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}}
    listed = lowrise("presets", **with_it)
    assert "select weakest, network none, repair scale" in listed.stdout
    assert "before each gap is scaled by one number (of thin)" in listed.stdout
    out, again = tmp_path / "out", tmp_path / "again"
    asked = ["--preset", "weakest", "--remove", "2", "--text", text_file, "--samples", "8", "--length", "32", "--quiet"]
    ran = lowrise("run", tiny_folder, *asked, "--windows", "1", "--out", out, **with_it)
    assert ran.returncode == 0, ran.stderr
    plan = json.loads((out / "lowrise/plan.json").read_text(encoding="utf-8"))
    weights = load_file(tiny_folder / "model.safetensors")
    norms = [
        sum(float(value.square().sum()) for name, value in weights.items() if name.startswith(f"model.layers.{layer}."))
        for layer in range(6)
    ]
    weakest = sorted(sorted(range(6), key=norms.__getitem__)[:2])
    assert sorted(plan["scores"]["layers"]) == weakest
    assert plan["scores"]["criterion"] == "weakest"
    assert {(edit["kind"], edit["repair"]) for edit in plan["edits"]} == {("drop", "scale")}
    results = json.loads((out / "lowrise/results.json").read_text(encoding="utf-8"))
    layers = [fit["layer"] for fit in results["repairs"]]
    assert layers
    kept = [layer for layer in range(6) if layer not in weakest]
    scaled = load_file(out / "model.safetensors")
    for new, layer in enumerate(kept):
        ours, theirs = (
            tensors[f"model.layers.{at}.mlp.down_proj.weight"] for tensors, at in ((scaled, new), (weights, layer))
        )
        ratio = ours / theirs
        assert ratio.std() < 1e-4  # one number
        assert (abs(float(ratio.mean()) - 1) > 1e-4) == (layer in layers)
    for page in ("lowrise/report.html", "README.md"):
        assert "he MLP output matri" in (out / page).read_text(encoding="utf-8")
        assert "scaled by one number each" in (out / page).read_text(encoding="utf-8")
    applied = lowrise(
        "apply", tiny_folder, out / "lowrise/plan.json", "--quiet", "--windows", "1", "--out", again, **with_it
    )
    assert applied.returncode == 0, applied.stderr
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    without = lowrise("apply", tiny_folder, out / "lowrise/plan.json", "--out", tmp_path / "no")
    assert without.returncode == 2
    assert "found 'scale'; install the package that has it" in without.stderr
    assert len(without.stderr.splitlines()) == 1
