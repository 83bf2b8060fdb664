"""The scores of a plan, typed by the criterion that found them. No torch.

A plan keeps its scores as they came, byte by byte; this is what of them is known. So keys that a later version adds are
let through, and a criterion that is not known here, one from outside the package, stays a free mapping.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lowrise.errors import PlanError
from lowrise.plan import CalibrationRecord, Plan


class _View(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class HeldOut(_View):
    """Mean next-token loss on held-out calibration tokens, natural log. after: None until what is planned is done."""

    tokens: int
    dense: float
    after: float | None
    perplexity_ratio: float | None
    collapsed: bool | None


class MassiveActivations(_View):
    """(L+1,) norms of h[l], and the layers that write massive activations."""

    writers: list[int]
    largest_norm: list[float]
    median_norm: list[float]


class Loss(_View):
    """Mean next-token loss, natural log, on what a search looked at."""

    dense: float
    after: float
    perplexity_ratio: float | None = None


class Tokens(_View):
    fitted: int
    held_out: int


class Round(_View):
    """One round of a search that takes a layer a round: what each layer's removal led to, None where not tried."""

    removed: int
    losses: list[float | None]
    divergences: list[float | None] | None = None

    @model_validator(mode="after")
    def _went_by_a_number(self) -> Self:
        if not 0 <= self.removed < len(self.values) or self.values[self.removed] is None:
            raise ValueError("the layer that went was not tried")
        return self

    @property
    def values(self) -> list[float | None]:
        """What it went by."""
        return self.losses if self.divergences is None else self.divergences


class Finalist(_View):
    spans: list[tuple[int, int]]
    divergence: float


class Trial(_View):
    """A merge of layers [start, stop) that was tried."""

    start: int
    stop: int
    similarity: float
    accepted: bool


class _Scores(_View):
    """held_out: what a plan notes whatever its criterion. fitted_on: the windows of repaired merges."""

    held_out: HeldOut | None = None
    fitted_on: CalibrationRecord | None = None


class CosineScores(_Scores):
    """cosine: by where a span of `span` layers starts (select/cosine.py)."""

    criterion: Literal["cosine"]
    span: int = Field(ge=1)
    cosine: list[float]
    relative_error: list[float] = []
    massive_activations: MassiveActivations | None = None
    published_start: int = Field(ge=0)
    start_without_massive_writers: int | None = None

    @model_validator(mode="after")
    def _starts_at_a_span(self) -> Self:
        if self.published_start >= len(self.cosine):
            raise ValueError("published_start is none of the spans")
        return self


class InfluenceScores(_Scores):
    """influence: by layer (select/block_influence.py)."""

    criterion: Literal["block-influence"]
    layers: list[int]
    influence: list[float]
    massive_activations: MassiveActivations | None = None


class AngularScores(_Scores):
    """angular_distance: by where a span of `span` layers starts (select/angular.py)."""

    criterion: Literal["angular"]
    span: int = Field(ge=1)
    angular_distance: list[float]
    massive_activations: MassiveActivations | None = None


class TaylorScores(_Scores):
    """importance: by layer (select/taylor.py)."""

    criterion: Literal["taylor"]
    layers: list[int]
    importance: list[float | None]


class GreedyScores(_Scores):
    """layers: as they went (select/greedy.py)."""

    criterion: Literal["greedy-perplexity"]
    layers: list[int]
    loss: Loss
    rounds: list[Round] = Field(min_length=1)


class RefitScores(_Scores):
    """finalists: whole choices that were repaired in the end, if several were (select/refit_search.py)."""

    criterion: Literal["repaired"]
    layers: list[int]
    loss: Loss
    rounds: list[Round] = Field(min_length=1)
    finalists: list[Finalist] = []
    tokens: Tokens | None = None


class RefitSpanScores(_Scores):
    """divergences, losses: by where a span of `span` layers starts, None where not tried (select/refit_search.py)."""

    criterion: Literal["repaired-span"]
    span: int = Field(ge=1)
    bridged: bool
    divergences: list[float | None]
    losses: list[float | None] = []
    loss: Loss | None = None
    tokens: Tokens | None = None


class MergeSearchScores(_Scores):
    """Every merge that was tried, in order (select/merge_search.py). threshold: None where none was asked for."""

    criterion: Literal["collapse"]
    settings: dict[str, Any] = {}  # of the recipe
    threshold: float | None = None
    verdict: Literal["merged", "nothing", "collapsed"]
    trials: list[Trial]
    loss: Loss


class TailScores(_Scores):
    criterion: Literal["tail"]


class RandomScores(_Scores):
    criterion: Literal["random"]
    seed: int
    layers: list[int]


class LorpScores(_Scores):
    """layers: as they were taken. clusters, redundancy: by layer; locality: None for infinite (select/lorp.py)."""

    criterion: Literal["lorp"]
    layers: list[int]
    locality: float | None
    clusters: list[int]
    redundancy: list[float | None]

    @model_validator(mode="after")
    def _of_all_layers(self) -> Self:
        if len(self.clusters) != len(self.redundancy):
            raise ValueError("clusters and redundancy are of other numbers of layers")
        return self


class FreeScores(_Scores):
    """Of a criterion from outside, or of a plan that somebody wrote: whatever they say."""

    model_config = ConfigDict(extra="allow", frozen=True)

    criterion: Any = None


Scores = (
    CosineScores
    | InfluenceScores
    | AngularScores
    | TaylorScores
    | GreedyScores
    | RefitScores
    | RefitSpanScores
    | MergeSearchScores
    | TailScores
    | RandomScores
    | LorpScores
    | FreeScores
)
_BY_CRITERION: dict[Any, type[Scores]] = {
    name: kind for kind in get_args(Scores) for name in get_args(kind.model_fields["criterion"].annotation)
}


def scores_of(plan: Plan, where: object = "the plan") -> Scores:
    """By the criterion that they name. Raises PlanError, one line, where they are not what that criterion finds.

    where: what the plan is called in it.
    """
    criterion = plan.scores.get("criterion")
    kind = _BY_CRITERION.get(criterion, FreeScores) if isinstance(criterion, str) else FreeScores
    try:
        return kind.model_validate(plan.scores)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(("scores", *map(str, first["loc"])))
        expected = f"what the criterion {criterion} finds" if kind is not FreeScores else "scores"
        found = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"{where}: {place}", expected, found, "make the plan anew") from error
