"""What a comparison is asked for: presets and sizes into rows, and whether a folder holds the same comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.compare.folder import ASKED, read_question
from lowrise.errors import OutputError, RecipeError, TextError
from lowrise.methods import current_name
from lowrise.reading import refusing, sha256_of
from lowrise.recipe import SIZES, Recipe, build_recipe, check_values, foreign_settings, presets
from lowrise.settings import current_keys

KINDS = {"select", "network", "repair"}  # settings that decide which others a row looks at


@dataclass(frozen=True)
class ComparisonRequest:
    """One recipe a row, ordered by size and then preset, as they were given; `files`: sha256 of every text read."""

    recipes: list[Recipe]
    files: dict[str, str]

    def to_json(self) -> str:
        rows = {_title(recipe): recipe.model_dump() for recipe in self.recipes}
        return json.dumps({"format": 1, "rows": rows, "files": self.files}, indent=2) + "\n"


def read_lists(
    names: str | None, sizes: str | None, layers: list[dict[str, Any]]
) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """(presets, sizes, settings for all rows) of the command line and, weaker, of a recipe file.

    layers: settings, the later ones winning. In a recipe file `presets` and `remove` are lists, or text with commas.
    """
    rest = [{key: value for key, value in layer.items() if key not in ("presets", "remove")} for layer in layers]
    for layer in layers:
        names = names if names is not None else _joined("presets", layer.get("presets"))
        sizes = sizes if sizes is not None else _joined("remove", layer.get("remove"))
    return _split(names), _split(sizes), rest


def ask(names: list[str], sizes: list[str], layers: list[dict[str, Any]], where: str) -> ComparisonRequest:
    """Every preset at every size. layers: recipe settings for all rows, the later ones winning.

    A setting goes to the presets that look at it (`foreign_settings`), `samples` to those that repair or do not name
    their own number (LaCo's ten sentences are no windows, and a search that runs the model a hundred times has few of
    them; a repair is the better the more it gets).
    Raises RecipeError for an unknown preset, an empty list, a name twice; TextError for a text that cannot be read.
    """
    _check_list("--presets", "a preset", "streamline-none,laco", names)
    _check_list("--remove", "a size", "4,8 or 25%", sizes)
    layers = [current_keys(layer) for layer in layers]
    for layer in layers:
        check_values(layer, where)  # of what goes to no preset too
        for key in SIZES[1:]:
            if layer.get(key) is not None:
                found = f"{key} {layer[key]!r}"
                raise RecipeError(where or "recipe", "sizes of a comparison as `remove`", found, "leave it out")
    recipes = []
    for size in sizes:
        for name in names:
            own = build_recipe({"preset": name})
            foreign = set()
            if own.repair != "none":  # a method that is a repair is not turned into another
                foreign = {"repair"}
            elif "samples" in presets()[name].settings:
                foreign = {"samples"}
            kinds = [{key: layer[key] for key in KINDS - foreign if key in layer} for layer in layers]
            row = build_recipe(*kinds, {"preset": name}, where=where)
            foreign |= {*foreign_settings(row.select, row.network, row.repair)}
            mine = [_without(layer, foreign) for layer in layers]
            recipes.append(build_recipe(*mine, {"preset": name, "remove": size}, where=where))
    if recipes[0].model is None:
        raise RecipeError("MODEL", "a hub id, a folder or a .gguf file", "none", "name one")
    return ComparisonRequest(recipes, {path: _sha256(path) for path in [*recipes[0].text, *recipes[0].eval_text]})


def _without(layer: dict[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    """The settings but for those of these names, dots between."""
    return {
        key: _without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in layer.items()
        if f"{prefix}{key}" not in names
    }


def check_same(folder: Path, asked: ComparisonRequest) -> None:
    """Raises OutputError, naming the first difference, unless `folder` was begun with these settings.

    Presets and sizes may be added: that changes no row that is there.
    """
    begun = read_asked(folder / ASKED)
    remedy = "say the same again, choose another --out, or begin anew with --force"
    now = json.loads(asked.to_json())
    for title, recipe in begun["rows"].items():
        if title not in now["rows"]:
            raise OutputError(folder, f"the row it was begun with, {title}", "none such asked for", remedy)
        # begun before there was the key, it was none
        then = {"for_engines": []} | current_keys(recipe)
        if isinstance(then.get("select"), str):
            then["select"] = current_name("criterion", then["select"])
        difference = _difference(then, now["rows"][title])
        if difference is not None:
            key, before, after = difference
            raise OutputError(folder, f"{key} {before!r}, with which it was begun", f"{after!r}", remedy)
    for path, digest in begun["files"].items():
        if now["files"].get(path, digest) != digest:
            found = f"other text in it (sha256 {now['files'][path][:16]}, not {digest[:16]})"
            raise OutputError(folder, f"{path} as it was when the comparison was begun", found, remedy)


def read_asked(file: Path) -> dict[str, Any]:
    """What `ComparisonRequest.to_json` wrote. Raises OutputError for a folder that holds no comparison."""
    begun = read_question(file)
    if begun is None:
        raise no_comparison(file.parent)
    return begun


def no_comparison(folder: Path) -> OutputError:
    return OutputError(folder, "a comparison to go on with, or nothing", "no comparison", "choose another --out")


def _check_list(option: str, what: str, example: str, values: list[str]) -> None:
    if not values or not all(values):
        found = "none" if not any(values) else f"an empty place in {','.join(values)!r}"
        raise RecipeError(option, f"{what} or several between commas, as {example}", found, "name some")
    for value in values:
        if values.count(value) > 1:
            raise RecipeError(option, f"every one of {what.removeprefix('a ')}s once", f"{value!r} twice", "leave one")


def _split(value: str | None) -> list[str]:
    return [part.strip() for part in value.split(",")] if value else []


def _joined(key: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
        raise RecipeError(key, "names or sizes, as a list or between commas", repr(value), "correct the value")
    return ",".join(map(str, parts))


def _title(recipe: Recipe) -> str:
    return f"{recipe.preset} at {recipe.remove}"


def _difference(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ: (its dotted name, before, after)."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found = _difference(old, new, f"{prefix}{key}.")
            if found is not None:
                return found
        elif old != new:
            return f"{prefix}{key}", old, new
    return None


def _sha256(path: str) -> str:
    with refusing(path, TextError, "a readable text file", "check the path"):
        return sha256_of(path)
