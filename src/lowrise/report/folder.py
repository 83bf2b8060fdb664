"""What an output folder tells: the files in its `lowrise/`, read and checked, wherever they were written.

What a page shows is checked here, so that a damaged file is one line and never half a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lowrise.errors import OutputError, close_paths
from lowrise.plan import Plan, read_plan
from lowrise.reading import MOST_YAML, kind_of, read_json, read_text
from lowrise.results import Curve, Observation, Results
from lowrise.scores import Scores, scores_of


@dataclass(frozen=True)
class Contents:
    """Everything that the page and the card are made of. scores: the plan's, by its criterion."""

    plan: Plan
    scores: Scores
    results: Results
    recipe: str
    observation: Observation | None
    curves: list[Curve]


_Model = TypeVar("_Model", bound=BaseModel)
_REMEDY = "check the folder, or write it anew with `lowrise run`"


def read_folder(folder: Path) -> Contents:
    """The contents of an output folder that `run` or `apply` wrote, here or on another machine.

    Raises OutputError (or PlanError) in one line for what is missing, damaged, or of two different runs.
    """
    side = folder / "lowrise"
    expected, remedy = "an output folder of `lowrise run` or `apply`", "check the path"
    if kind_of(side, OutputError, expected, remedy) != "folder":
        found = "no folder `lowrise` in it" if folder.is_dir() else "nothing of that kind"
        raise OutputError(folder, expected, found, close_paths(folder, remedy))
    results = _read(Results, side / "results.json")
    plan = read_plan(side / "plan.json")
    dense_layers = results.dense.layers if results.dense is not None else plan.model.layers
    if (results.layers, dense_layers) != (plan.layers_after, plan.model.layers):
        found = f"{dense_layers} and {results.layers} in results.json"
        expected = f"{plan.model.layers} layers before and {plan.layers_after} after, as in plan.json"
        raise OutputError(side, expected, found, _REMEDY)
    observation = None
    if (side / "observation.json").exists():
        observation = _read(Observation, side / "observation.json")
        if not observation.fits(plan.model.layers):
            expected = f"numbers of a model of {plan.model.layers} layers"
            raise OutputError(side / "observation.json", expected, "another count", _REMEDY)
    several = len(results.training) > 1
    curves = [side / (f"training-{i}.json" if several else "training.json") for i in range(len(results.training))]
    return Contents(
        plan=plan,
        scores=scores_of(plan, side / "plan.json"),
        results=results,
        recipe=read_text(side / "recipe.yaml", OutputError, "a recipe", _REMEDY, most=MOST_YAML),
        observation=observation,
        curves=[_read(Curve, file) for file in curves],
    )


def read_healed(folder: Path) -> tuple[Results, str]:
    """The results and the recipe of a folder that `heal` wrote of a model whose plan is not known."""
    side = folder / "lowrise"
    recipe = read_text(side / "recipe.yaml", OutputError, "a recipe", _REMEDY, most=MOST_YAML)
    return _read(Results, side / "results.json"), recipe


def parse(kind: type[_Model], content: Any, where: object, remedy: str = _REMEDY) -> _Model:
    """What a file of lowrise's own held. Raises OutputError, one line, for what is not of that kind."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise OutputError(
            f"{where}: {place}", first["msg"].removeprefix("Input should be "), "another value", remedy
        ) from error


def _read(kind: type[_Model], file: Path) -> _Model:
    # the numbers of a ruin are not finite, and text that a model wrote may hold any character
    return parse(kind, read_json(file, OutputError, "results as JSON", _REMEDY, lenient=True), file)
