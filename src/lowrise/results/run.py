"""results.json of `run`, `apply` and `measure`, and training.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from lowrise.methods import load
from lowrise.results.draft import Draft
from lowrise.results.healing import Healing
from lowrise.results.perplexity import Perplexity
from lowrise.results.record import FORMAT, Format, Record


class TaskScores(Record):
    """Scores of one model on one task. Beside what is named here lie its metrics and their standard errors.

    n: samples. chance: accuracy of guessing, where the task has one. subtasks: of a group.
    """

    # metrics are named by the task: acc, acc_stderr, exact_match,flexible-extract, ...
    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, float | None]

    n: int
    chance: float | None = None
    fewshot: int
    subtasks: dict[str, TaskScores] = {}

    @model_serializer(mode="wrap")
    def _what_was_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        metrics = {key: value for key, value in fields.items() if key not in type(self).model_fields}
        return metrics | {key: value for key, value in fields.items() if key in self.model_fields_set}

    def score(self, metric: str) -> float | None:
        return self.__pydantic_extra__.get(metric)

    def error(self, metric: str) -> float | None:
        """The standard error of a metric."""
        return self.__pydantic_extra__.get(f"{metric}_stderr")

    @property
    def errors(self) -> set[str]:
        """The names of the standard errors, whether they have a value or not."""
        return {name for name in self.__pydantic_extra__ if "_stderr" in name}

    @property
    def metrics(self) -> list[str]:
        """Their names, in the task's order, whether they have a value or not."""
        return [name for name in self.__pydantic_extra__ if "_stderr" not in name]


class Generation(Record):
    """Greedy continuations by one model: `measure/greedy_text.py`, which defines the numbers.

    prompts: of texts. questions: by the chat template. tokens: written behind all of them. repetition: null where none
    is long enough. agreement: the share of the dense model's tokens that it would have chosen too. until_difference:
    tokens before the first that differs, the mean over prompts.
    """

    prompts: int
    questions: int
    tokens: int
    repetition: float | None
    agreement: float | None = None
    until_difference: float | None = None


class MeasuredModel(Record):
    """One model. model: its place, which a dense model beside it does not repeat. bytes: of weights of `dtype`."""

    model: str | None = None
    layers: int = Field(gt=0)
    parameters: int = Field(gt=0)
    parameters_embeddings: int
    bytes: int
    dtype: str
    perplexity: dict[str, Perplexity] = {}
    tasks: dict[str, TaskScores] = {}
    generation: Generation | None = None

    @field_validator("generation", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """The format named it before anything was measured."""
        return None if value == {} else value


class Sample(Record):
    """What both models write behind a prompt, greedily."""

    prompt: str
    dense: str
    compressed: str


class TaskRetained(Record):
    """Compressed over dense score, and the same of what is above chance, with 95% intervals; null has a reason.

    metric: the score that it is of; a mean over tasks has none.
    """

    metric: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    reason_ratio: str | None = None
    reason_ratio_interval: str | None = None
    above_chance: float | None = None
    above_chance_low: float | None = None
    above_chance_high: float | None = None
    reason_above_chance: str | None = None
    reason_above_chance_interval: str | None = None


class Retained(Record):
    """Compressed over dense. perplexity_ratio: by text."""

    layers: float
    parameters: float
    perplexity_ratio: dict[str, float]
    tasks: dict[str, TaskRetained] = {}
    tasks_mean: TaskRetained | None = None


class Spread(Record):
    """A median, with the quartiles around it."""

    median: float
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float:
        return self.median


class Rate(Record):
    """The same of tokens a second."""

    tokens_per_second: float
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float:
        return self.tokens_per_second


class Ideal(Record):
    """ratio: what the removed layers allow. share: of it that was reached, measured / ideal."""

    ratio: float
    share: float


class Pace(Record):
    """Generation by one model; rates by batch size. Bytes: see measure/speed.py."""

    kv_bytes_per_token: int
    kv_bytes_per_token_past_windows: int | None = None
    peak_bytes: int
    prefill: dict[str, Rate]
    decode: dict[str, Rate]
    first_token_seconds: Spread


class SpeedSettings(Record):
    prompt_tokens: int
    new_tokens: int
    rounds: int
    device: str
    dtype: str
    threads: int


class Speed(Record):
    """Both models in alternation. ratio, ideal: compressed over dense by `prefill` or `decode`, then by batch size."""

    dense: Pace | None = None
    compressed: Pace
    ratio: dict[str, dict[str, Spread]] = {}
    ideal: dict[str, dict[str, Ideal]] = {}
    settings: SpeedSettings


class TrainingSummary(Record):
    """What training did. best: lowest held-out loss, kept. dropped: the loss of putting nothing back."""

    loss: Literal["mse", "relative"]
    best_step: int
    best: float
    dropped: float
    steps: int
    epochs: int
    batch_windows: int
    training_tokens: int
    validation_tokens: int
    last_learning_rate: float


class Curve(TrainingSummary):
    """training.json: points are (optimiser steps done, loss)."""

    train: list[tuple[int, float]] = Field(min_length=1)
    validation: list[tuple[int, float]] = Field(min_length=1)

    @property
    def summary(self) -> TrainingSummary:
        """Without its points."""
        return TrainingSummary(**{name: getattr(self, name) for name in TrainingSummary.model_fields})


class RepairFit(Record):
    """What was solved or fitted at one layer of the original model: `edit/fit.py`, which defines the numbers."""

    layer: int
    stop: int
    ridge: float | None = None
    before: float | None = None
    after: float | None = None
    neurons: int = 0
    descended: bool = False
    written: bool = True
    experts: int = 0
    few: int = 0


class EngineVerdict(Record):
    """What a serving engine does with the checkpoint: `engines/checking.py`, from facts that are known of it."""

    engine: str
    version: str
    fate: Literal["opens", "wrong", "refuses", "unknown"]
    because: list[str]


class Results(MeasuredModel):
    """results.json: the model that was measured or made, and beside it, where there is one, the dense one.

    stability, stability_published, agreement: by task. seconds: by stage, and `total`. memory: bytes held at most,
    resident and on the device, in all and until the checkpoint was written. base: what the card inherits.
    healing: of `heal`. engines: what each would do with what was written. draft: of
    `measure --draft-for`.
    """

    format: Format = FORMAT
    samples: list[Sample] = []
    dense: MeasuredModel | None = None
    retained: Retained | None = None
    stability: dict[str, float | None] = {}
    stability_published: dict[str, float | None] = {}
    agreement: dict[str, float | None] = {}
    memory: dict[str, int]
    versions: dict[str, str]
    seconds: dict[str, float]
    speed: Speed | None = None
    training: list[TrainingSummary] = []
    repairs: list[RepairFit] = []
    command: Literal["run", "apply", "heal"] | None = None
    base: dict[str, str] = {}
    warnings: list[str] = []
    healing: Healing | None = None
    engines: list[EngineVerdict] = []
    draft: Draft | None = None

    def _repr_html_(self) -> str:
        """For a notebook."""
        return str(load("lowrise.report.notebook:results_html")(self))

    @property
    def perplexity_ratio(self) -> dict[str, float]:
        """By text, as far as there is a dense model."""
        return self.retained.perplexity_ratio if self.retained is not None else {}

    @property
    def tasks_retained(self) -> dict[str, TaskRetained]:
        return self.retained.tasks if self.retained is not None else {}

    @property
    def tasks_mean(self) -> TaskRetained:
        """Without values where nothing was asked of two models."""
        mean = self.retained.tasks_mean if self.retained is not None else None
        return mean if mean is not None else TaskRetained()
