"""The one description of a run. A preset gives its defaults, a recipe file overrides them, the command line wins.

Presets resolve inside the model, so that `Recipe(preset="laco")` in Python is what `--preset laco` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lowrise.errors import RecipeError, close_names, reason
from lowrise.methods import OF_SOME, Kind, Method, method, methods, presets_of_others
from lowrise.reading import read_yaml
from lowrise.recipe_types import Budget, Engines, Network, Repair, Select, as_written
from lowrise.settings import Bos, Form, Heal, MergeSearch, Strict, Training, current_keys
from lowrise.sizes import bytes_of, count_of, memory_bound, named_layers

SIZES = ("remove", "keep_parameters", "keep_memory", "keep_latency")  # how many layers go, each in a way of its own
_GOALS = (*SIZES, "layers")


class Recipe(BaseModel):
    """A run. `remove` counts net layers: a network that is put back is not removed.

    What is not given is as the preset says, and else as it stands here. Raises RecipeError for an unknown preset.
    """

    model_config = Strict.model_config

    model: str | None = Field(None, description="a hub id, a folder, or a .gguf file")
    preset: str = Field(
        "refit",
        frozen=True,  # its settings are in the others already: another one is another recipe
        description="a method by name, which gives the other keys",
    )
    fast: bool = Field(
        False,
        frozen=True,
        description="the preset's keys that end sooner and keep less, where it has them; they are then given",
    )
    remove: str | None = Field(
        "25%", description="net layers to remove: 8, or 25%; null: as many as the search's threshold lets go"
    )
    keep_parameters: Annotated[str | None, as_written(count_of)] = Field(
        None, description="parameters, as 1.1B: as many layers go as leave at most that"
    )
    keep_memory: Annotated[str | None, as_written(bytes_of)] = Field(
        None, description="bytes of the weights, as they are saved: 2GB"
    )
    keep_latency: float | None = Field(
        None, gt=0, lt=1, description="share of the dense model's time for one token, timed first"
    )
    layers: Annotated[str | None, as_written(named_layers)] = Field(
        None, description="the layers that go, by hand, 0-based, ends included: 12-19,21"
    )
    select: Select = Field("cosine", description="the criterion: how layers are chosen")
    network: Network = Field("layer", description="what is put back in a span's place")
    form: Form = Field("paper", description="of ffn and swiglu: as published, or portable, which loads plainly")
    repair: Repair = Field(
        "none", description="layer by layer, of the layers that are left, or of what stands in a span's place"
    )
    search_budget: Budget = Field(1, description="of the search with repair: times the usual tokens and trials")
    avoid_massive: bool = Field(False, description="only spans without a layer that writes massive activations")
    for_engines: Engines = Field([], description="`for` in a recipe: only cuts that these engines read right")
    text: list[str] = Field([], description="files of calibration text")
    dataset: str | None = Field(None, description="calibration text from `datasets`: NAME or NAME:CONFIG")
    synthetic_share: float = Field(
        0.0, ge=0, lt=1, description="share of the windows, written by the model beside text or dataset"
    )
    tokens: str | None = Field(
        None, description="calibration tokens that `lowrise compare` stored, made of the text or dataset above"
    )
    bos: Bos = Field("auto", description="auto: windows begin with what the tokenizer puts in front of a text")
    samples: int = Field(128, gt=0, le=10**7, description="calibration windows")
    length: int = Field(
        2048, gt=1, le=2**30, description="tokens a window, of calibration and of perplexity; capped by the model"
    )
    calibration_length: int | None = Field(
        None, gt=1, le=2**30, description="tokens a window, of calibration alone; null: as `length`"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="decides samples, initial weights and order")
    training: Training = Field(Training(), description="how a network in a span's place is trained")
    merge_search: MergeSearch = Field(MergeSearch(), description="the search of `laco`")
    heal: Heal | None = Field(None, description="how the cut model is healed; null: nothing is trained after the cut")
    strict: bool = Field(
        False, description="a search that accepts nothing, or whose result collapses, ends with exit status 2"
    )
    max_ram: str | None = Field(None, description="bytes for training pairs, as 800M or 4G; null: half of what is free")
    memory: Annotated[str | None, as_written(memory_bound)] = Field(
        None, description="bound on resident memory, 2GB; auto: what is free, if the model needs more; null: in memory"
    )
    eval_text: list[str] = Field([], description="files of text to measure perplexity on")
    windows: int | None = Field(None, gt=0, description="windows of each evaluation text, the first ones; null: all")
    speed: bool = Field(False, description="time generation, the dense model beside the compressed one")
    tasks: list[str] = Field([], description="of lm-eval, or of task_dir")
    task_dir: str | None = Field(None, description="a folder of lm-eval task files")
    limit: int | None = Field(None, gt=0, description="items of each task; null: all")
    fewshot: int | None = Field(None, ge=0, description="examples in front of each item; null: as the task says")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format to compute in; auto: the model's own, float32 on CPU"
    )
    device: str = Field(
        "auto", description="auto, cpu, mps, cuda:1; cuda:0,cuda:1: layers over both; auto: GPU, or cpu"
    )
    trust_remote_code: bool = Field(False, description="run code that the checkpoint brings")
    allow_pickle: bool = Field(False, description="open pickled weights, which can run code")

    @model_validator(mode="before")
    @classmethod
    def _preset_gives_the_rest(cls, data: Any) -> Any:
        """What is given wins. YAML reads `remove: 8` as a number; layers may be a list of them."""
        if not isinstance(data, dict):
            return data
        data = current_keys(data)
        for key in ("remove", "keep_parameters", "keep_memory", "layers"):
            named = data.get(key) if key == "layers" and isinstance(data.get(key), list) else [data.get(key)]
            if named and all(isinstance(one, int) and not isinstance(one, bool) for one in named):
                data = {**data, key: ",".join(map(str, named))}
        parts: dict[str, type[BaseModel]] = {"training": Training, "merge_search": MergeSearch}
        if data.keys() >= cls.model_fields.keys() and all(isinstance(data[key], parts[key]) for key in parts):
            return data  # a value is assigned to a recipe, which is whole
        return _over_preset({key: _as_given(value) for key, value in data.items()})

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.text and self.dataset is not None and self.heal is None:  # healing reads both
            raise ValueError("text or dataset, not both")
        if self.synthetic_share and not self.text and self.dataset is None:
            raise ValueError("a share beside `text` or `dataset`; without them the model writes all windows")
        return self

    @model_validator(mode="after")
    def _criterion_takes_the_rest(self) -> Self:
        if self.network != "none" and not method("criterion", self.select).takes_network:
            raise ValueError(f"`network: none` with `select: {self.select}`, which puts nothing back")
        for name, those in foreign_settings(self.select, self.network, self.repair).items():
            first, *inner = name.split(".")
            value, usual = getattr(self, first), type(self).model_fields[first].default
            if reduce(getattr, inner, value) != reduce(getattr, inner, usual):
                key = name.rpartition(".")[2]
                option = f"--{key.replace('_', '-')}"
                raise _clash(
                    option,
                    f"presets that {those}",
                    f"{self.preset}, which does not",
                    f"leave {option} out, or choose {_looking_at(name)}",
                )
        if "none" not in (self.network, self.repair) and method("repair", self.repair).on_networks is None:
            free = " or ".join(name for name, row in methods("repair").items() if row.on_networks is not None)
            raise _clash(
                f"--repair {self.repair}",
                "a preset that puts nothing back",
                f"{self.preset}, which puts a trained network back",
                f"leave --repair out, or choose {free}",
            )
        return self

    @model_validator(mode="after")
    def _engines_open_the_form(self) -> Self:
        others = [name for name in self.for_engines if name != "transformers"]
        if others and not self.loads_plainly:
            raise _clash(
                f"--for {others[0]}",
                "a preset whose output loads plainly",
                f"{self.preset}, whose output brings its own modelling file",
                "choose --form portable where the preset has it, or another preset",
            )
        return self

    @model_validator(mode="after")
    def _search_has_one_goal(self) -> Self:
        goals = [key for key in _GOALS if getattr(self, key) is not None]
        goals += ["threshold"] if self.merge_search.threshold is not None else []
        if len(goals) > 1:
            one, other = (f"--{goal.replace('_', '-')}" for goal in goals[:2])
            raise _clash(f"{one} and {other}", "one way to say how many layers go", "both", "give one of them")
        return self

    @property
    def fitted_length(self) -> int:
        """Tokens a calibration window."""
        return self.length if self.calibration_length is None else self.calibration_length

    @property
    def put_back(self) -> int:
        """Networks that stand in the span's place: the span is that much longer than the net removal."""
        return 0 if self.network == "none" else 1

    @property
    def methods(self) -> list[Method]:
        """The rows of what it does: criterion, network and repair."""
        return chosen_methods(self.select, self.network, self.repair)

    @property
    def loads_plainly(self) -> bool:
        """Whether stock `AutoModelForCausalLM.from_pretrained` opens the result without its own modelling file."""
        return all(row.loads_plainly or ("form" in row.settings and self.form == "portable") for row in self.methods)


def _clash(where: str, expected: str, found: str, remedy: str) -> PydanticCustomError:
    """Of settings that do not go together, in the words of an InputError."""
    context = {"where": where, "expected": expected, "found": found, "remedy": remedy}
    return PydanticCustomError("clash", "expected {expected}, found {found}; {remedy}", context)


def chosen_methods(select: str, network: str, repair: str) -> list[Method]:
    """Their rows, without those of `none`."""
    rest: list[tuple[Kind, str]] = [("network", network), ("repair", repair)]
    return [method("criterion", select), *(method(kind, name) for kind, name in rest if name != "none")]


def foreign_settings(select: str, network: str, repair: str) -> dict[str, str]:
    """Keys of a recipe, dots between, that such a preset does not look at; and what presets do that look at them."""
    rows = chosen_methods(select, network, repair)
    looked_at = {key for row in rows for key in row.settings}
    foreign = {key: those for key, those in OF_SOME.items() if key not in looked_at}
    if all(row.looks_at == "sentences" for row in rows):
        foreign |= dict.fromkeys(("calibration_length", "synthetic_share"), "look at windows")
    those = foreign.pop("merge_search", None)
    return (
        foreign if those is None else {**{f"merge_search.{key}": those for key in MergeSearch.model_fields}, **foreign}
    )


def _looking_at(key: str) -> str:
    """The presets that do look at this key of a recipe, two of them where there are many."""
    names = []
    for name, preset in _found_presets().items():
        kinds = [preset.settings.get(one, Recipe.model_fields[one].default) for one in ("select", "network", "repair")]
        if preset.package is None and key not in foreign_settings(*kinds):
            names.append(name)
    if len(names) > 3:
        return f"another preset, such as {' or '.join(names[:2])}"
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or "another preset"


class Preset(Strict):
    """One method by name: `recipes/NAME.yaml`, or what another package offers."""

    name: str
    summary: str
    paper: str | None = None  # None: a method of lowrise itself, in docs/methods.md
    settings: dict[str, Any]
    fast: dict[str, Any] = Field({})  # in the place of some of them, where `fast` is asked for
    package: str | None = None  # None: lowrise

    @property
    def recipe(self) -> Recipe:
        where = "" if self.package is None else f"preset {self.name} of the package {self.package}"
        return build_recipe({"preset": self.name}, where=where)

    @property
    def loads_plainly(self) -> bool:
        return self.recipe.loads_plainly


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name, those that ship first; their files are read once. Raises RecipeError for one of another
    package that is none.
    """
    found = _found_presets()
    for preset in found.values():
        if preset.package is not None:
            _ = preset.recipe  # complains now, and names the package
    return found


@cache
def _found_presets() -> Mapping[str, Preset]:
    found = {}
    for file in sorted(files("lowrise").joinpath("recipes").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            name = file.name.removesuffix(".yaml")
            found[name] = Preset(name=name, **yaml.safe_load(file.read_text(encoding="utf-8")))
    for name, (content, package) in presets_of_others().items():
        where, remedy = f"preset {name} of the package {package}", f"mend {package}, or uninstall it"
        if name in found:
            raise RecipeError(where, "a new name", "one that lowrise has", remedy)
        try:
            found[name] = Preset(**{**content, "name": name, "package": package})
        except ValidationError as error:
            raise RecipeError(
                where, "summary, paper and settings, as in recipes/*.yaml", reason(error), remedy
            ) from error
    return MappingProxyType(found)


def read_recipe(path: Path) -> dict[str, Any]:
    """The keys of a recipe file, not yet validated."""
    content = read_yaml(path, RecipeError, "YAML in a readable file", "mend the file, or check the path")
    if not isinstance(content, dict):
        raise RecipeError(path, "a mapping of keys to values", type(content).__name__, "write `key: value` lines")
    if not all(isinstance(key, str) for key in content):
        raise RecipeError(path, "keys that are words", "a key that is none", "write `key: value` lines")
    return content


def build_recipe(*layers: dict[str, Any], where: str = "") -> Recipe:
    """The recipe that `layers` give, the later ones winning, on top of the preset that they name.

    Raises RecipeError for an unknown preset or key (with close names) and for a value out of range.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(key) is not None for key in _GOALS):
            given = {key: value for key, value in given.items() if key not in _GOALS}  # one size takes another's place
        given = _merge(given, current_keys(layer))
    try:
        return Recipe(**given)
    except ValidationError as error:
        raise _one_line(error, where) from error


def _over_preset(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the preset that `given` names, with what is given on top. Raises RecipeError for an unknown one.

    A length that is said of all windows holds for those of calibration too, unless theirs is given as well.
    """
    usual = "given" if given.get("layers") is not None else Recipe.model_fields["preset"].default
    name = given.get("preset", usual)
    known = _found_presets()
    if not isinstance(name, str) or name not in known:
        remedy = close_names(str(name), known)
        raise RecipeError(f"preset {name!r}", "a preset that exists", "none of that name", remedy)
    settings = known[name].settings
    if given.get("fast") is True:  # from here on it is what it says: a recipe that is written says the same of itself
        settings = {**settings, **_fast(known, name)}
        given = {**given, "fast": False}
    if "length" in given:
        settings = {key: value for key, value in settings.items() if key != "calibration_length"}
    if any(given.get(key) is not None for key in SIZES):
        settings = {**settings, "remove": None}
    return _merge({**settings, "preset": name}, given)


def _fast(known: Mapping[str, Preset], name: str) -> dict[str, Any]:
    """What `fast` says of a preset. Raises RecipeError for one of which it says nothing."""
    if not known[name].fast:
        those = ", ".join(other for other, preset in known.items() if preset.fast)
        raise RecipeError("--fast", f"a preset that has settings for it: {those}", name, "give fewer --samples instead")
    return known[name].fast


def _as_given(value: Any) -> Any:
    """Of settings within a setting those that were set, so that a preset gives the others."""
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def check_values(given: dict[str, Any], where: str = "") -> None:
    """Raises RecipeError, as `build_recipe` does, for a key that is unknown or a value that no preset could take."""
    for key, value in given.items():
        try:
            Recipe.model_validate({key: value})
        except ValidationError as error:
            if error.errors()[0]["loc"]:  # without a place it is a matter of settings that do not go together
                raise _one_line(error, where) from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _one_line(error: ValidationError, where: str) -> RecipeError:
    """The first complaint; without a file as `where`, keys are options of the command line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    key = "for" if key == "for_engines" else key
    if first["type"] == "extra_forbidden":
        nested: dict[str, type[BaseModel]] = {"training": Training, "merge_search": MergeSearch, "heal": Heal}
        owner = nested.get(str(first["loc"][0]), Recipe) if len(first["loc"]) > 1 else Recipe
        remedy = close_names(str(first["loc"][-1]), owner.model_fields)
        return RecipeError(where or "recipe", "known keys only", f"the unknown key {key!r}", remedy)
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    option = f"--{key.rpartition('.')[2].replace('_', '-')}" if first["loc"] else "options"
    option = "--heal or --tokens" if key == "heal.tokens" else option  # of `run`, and of `heal`
    place = f"{where}: {key}" if where else option
    if first["type"] == "clash":
        clash = first["ctx"]
        place = f"{where}: {clash['where']}" if where else clash["where"]
        return RecipeError(place, clash["expected"], clash["found"], clash["remedy"])
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # a validator's of several settings
        return RecipeError(place, expected, "these settings together", "leave one of them out, or change one")
    remedy = first.get("ctx", {}).get("remedy", "correct the value")
    if first["type"] == "literal_error":
        remedy = close_names(str(first["input"]), first["ctx"]["expected"].split("'")[1::2], remedy)
    return RecipeError(place, expected, repr(first["input"]), remedy)
