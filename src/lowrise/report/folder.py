"""What an output folder tells: the files in its `lowrise/`, read and checked, wherever they were written.

What a page shows is checked here, so that a damaged file is one line and never half a page. Keys that a page does not
show are let through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowrise.errors import OutputError
from lowrise.plan import Plan, read_plan
from lowrise.reading import MOST_YAML, kind_of, read_json, read_text

_COUNTS = ("n", "chance", "fewshot", "subtasks")  # of a task: what is no score


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Perplexity(_Loose):
    value: float
    tokens: int
    windows: int
    length: int


class Task(_Loose):
    """Scores of one model on one task: accuracies in [0, 1], and whatever else the task measures, under `more`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    acc: float | None = None
    acc_stderr: float | None = None
    acc_norm: float | None = None
    acc_norm_stderr: float | None = None
    n: int | None = None
    chance: float | None = None
    fewshot: int | None = None

    def metrics(self) -> dict[str, tuple[float, float | None]]:
        """Every metric of the task with its standard error."""
        found: dict[str, tuple[float, float | None]] = {}
        for name, value in {**self.model_dump(), **(self.model_extra or {})}.items():
            number = _number(value)
            if number is not None and name not in _COUNTS and "_stderr" not in name:
                found[name] = number, _number(getattr(self, f"{name}_stderr", None))
        return found


class Retained(_Loose):
    """Compressed over dense, 95% intervals; None where there is no value. metric: the score that it is of."""

    metric: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    above_chance: float | None = None
    above_chance_low: float | None = None
    above_chance_high: float | None = None


class AllRetained(_Loose):
    layers: float | None = None
    parameters: float | None = None
    perplexity_ratio: dict[str, float] = {}
    tasks: dict[str, Retained] = {}
    tasks_mean: Retained | None = None


class Spread(_Loose):
    """A median with the range around it. Rates are in tokens a second."""

    tokens_per_second: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float | None:
        return self.tokens_per_second if self.tokens_per_second is not None else self.median


class Ideal(_Loose):
    ratio: float


class Pace(_Loose):
    """Speed of one model; prefill and decode by batch size."""

    prefill: dict[str, Spread] = {}
    decode: dict[str, Spread] = {}
    first_token_seconds: Spread | None = None
    kv_bytes_per_token: float | None = None
    peak_bytes: float | None = None


class Speed(_Loose):
    """Both models in alternation. ratio: compressed over dense by kind and batch; ideal: what the cut allows."""

    dense: Pace | None = None
    compressed: Pace
    ratio: dict[str, dict[str, Spread]] = {}
    ideal: dict[str, dict[str, Ideal]] = {}


class Sample(_Loose):
    prompt: str
    dense: str
    compressed: str


class Measured(_Loose):
    layers: int = Field(gt=0)
    parameters: int = Field(gt=0)
    parameters_embeddings: int = 0
    bytes: int = 0
    dtype: str = ""
    perplexity: dict[str, Perplexity] = {}
    tasks: dict[str, Task] = {}


class Training(_Loose):
    best_step: int
    best: float
    dropped: float
    steps: int


class Repair(_Loose):
    """What was solved or fitted at one layer of the original model (`edit/fit.py`)."""

    layer: int
    neurons: int = 0
    descended: bool = False
    written: bool = True


class Results(Measured):
    """results.json, as far as a page or a card shows it (DESIGN, results.json)."""

    model: str
    dense: Measured | None = None
    retained: AllRetained = AllRetained()
    stability: dict[str, float | None] = {}
    agreement: dict[str, float | None] = {}
    speed: Speed | None = None
    samples: list[Sample] = []
    training: list[Training] = []
    repairs: list[Repair] = []
    base: dict[str, str] = {}
    command: str = "run"
    warnings: list[str] = []
    memory: dict[str, int] = {}
    versions: dict[str, str] = {}
    seconds: dict[str, float] = {}


class Norms(_Loose):
    largest: list[float]
    median: list[float]
    writers: list[int]


class Observation(_Loose):
    """observation.json: `input_output` (L,), `pairs` (L+1, L+1), norms (L+1,)."""

    input_output: list[float]
    pairs: list[list[float]]
    norms: Norms

    def fits(self, layers: int) -> bool:
        lengths = {len(self.pairs), len(self.norms.largest), len(self.norms.median), *map(len, self.pairs)}
        return len(self.input_output) == layers and lengths == {layers + 1}


class Curve(Training):
    """training.json: (optimiser steps done, loss)."""

    loss: str
    train: list[tuple[int, float]] = Field(min_length=1)
    validation: list[tuple[int, float]] = Field(min_length=1)


@dataclass(frozen=True)
class Contents:
    """Everything that the page and the card are made of. `raw` is results.json as it was read."""

    plan: Plan
    results: Results
    raw: dict[str, Any]
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
        raise OutputError(folder, expected, found, remedy)
    raw = _json(side / "results.json")
    results = _parse(Results, raw, side / "results.json")
    plan = read_plan(side / "plan.json")
    dense_layers = results.dense.layers if results.dense is not None else plan.model.layers
    if (results.layers, dense_layers) != (plan.layers_after, plan.model.layers):
        found = f"{dense_layers} and {results.layers} in results.json"
        expected = f"{plan.model.layers} layers before and {plan.layers_after} after, as in plan.json"
        raise OutputError(side, expected, found, _REMEDY)
    observation = None
    if (side / "observation.json").exists():
        observation = _parse(Observation, _json(side / "observation.json"), side / "observation.json")
        if not observation.fits(plan.model.layers):
            expected = f"numbers of a model of {plan.model.layers} layers"
            raise OutputError(side / "observation.json", expected, "another count", _REMEDY)
    several = len(results.training) > 1
    curves = [side / (f"training-{i}.json" if several else "training.json") for i in range(len(results.training))]
    return Contents(
        plan=plan,
        results=results,
        raw=raw,
        recipe=read_text(side / "recipe.yaml", OutputError, "a recipe", _REMEDY, most=MOST_YAML),
        observation=observation,
        curves=[_parse(Curve, _json(file), file) for file in curves],
    )


def _json(file: Path) -> Any:
    # the numbers of a ruin are not finite, and text that a model wrote may hold any character
    return read_json(file, OutputError, "results as JSON", _REMEDY, lenient=True)


def _parse(kind: type[_Model], content: Any, file: Path) -> _Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise OutputError(
            f"{file}: {place}", first["msg"].removeprefix("Input should be "), "another value", _REMEDY
        ) from error


def _number(value: object) -> float | None:
    """None for what is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
