"""plan.json: what to do to which layers of which model, and why. Small, readable, made without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)

from lowrise.called import called
from lowrise.errors import PlanError
from lowrise.methods import current_name, load, method, methods
from lowrise.provenance import MOST_LAYERS, RestrictionRecord
from lowrise.provenance import CalibrationRecord as CalibrationRecord
from lowrise.provenance import ModelRecord as ModelRecord
from lowrise.provenance import TextRecord as TextRecord
from lowrise.reading import read_json
from lowrise.recipe_types import Network, Repair
from lowrise.settings import Form, Norms, Rule, Training

called(__name__)

_LARGEST_WEIGHT = 1e6  # of a merge's, by far


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Span(_Strict):
    """Layers [start, stop), 0-based, of the original model."""

    start: int = Field(ge=0, le=MOST_LAYERS)
    stop: int = Field(le=MOST_LAYERS)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.stop <= self.start:
            raise ValueError(f"the span [{self.start}, {self.stop}) is empty")
        return self


# Repairs that plans name by a kind of the edit and an objective: they are older than the word `repair` of drops.
_KINDS: dict[str, tuple[Literal["fold", "refit"], Literal["least-squares", "cosine"]]] = {
    "fold": ("fold", "least-squares"),
    "fold-cosine": ("fold", "cosine"),
    "refit": ("refit", "least-squares"),
}


class Drop(_Span):
    """The span goes, and what is left is repaired, together with all other drops and merges.

    repair: the way; in a file it stands as `kind` and `objective` where the repair has these (`_KINDS`). What repairs
    find they find on the calibration tokens when the plan is applied: plans stay small.
    """

    kind: Literal["drop", "fold", "refit"] = "drop"
    objective: Literal["least-squares", "cosine"] = "least-squares"  # of a fold
    repair: Repair = "none"
    put_back: ClassVar[int] = 0

    @model_validator(mode="after")
    def _kind_and_repair_agree(self) -> Self:
        if self.kind != "fold" and self.objective != "least-squares":
            raise ValueError(f"`objective` belongs to a fold, not to a {self.kind}")
        if self.kind == "drop":
            self.kind, self.objective = _KINDS.get(self.repair, ("drop", "least-squares"))
            return self
        own = next(name for name, written in _KINDS.items() if written == (self.kind, self.objective))
        if self.repair not in ("none", own):
            raise ValueError(f"`repair: {self.repair}` belongs to a drop, not to a {self.kind}")
        self.repair = own
        return self

    @model_serializer(mode="wrap")
    def _no_more_than_it_takes(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        if self.kind != "fold":
            del fields["objective"]
        if self.kind != "drop" or self.repair == "none":
            del fields["repair"]
        return fields


def in_a_layer(network: Network, form: Form) -> bool:
    """Whether such a network stands in a decoder layer of the family."""
    return "form" not in method("network", network).settings or form == "portable"


class Replace(_Span):
    """The span goes and one trained network stands in its place.

    What of the windows its training holds out is the plan's `calibration.held_out`.
    """

    kind: Literal["replace"] = "replace"
    network: Network
    form: Form = "paper"
    training: Training = Training()
    repair: Repair = "none"  # of the network's own last matrix, once it is trained
    put_back: ClassVar[int] = 1

    @model_validator(mode="after")
    def _something_stands_there(self) -> Self:
        if self.network == "none":
            raise ValueError("a span that nothing replaces is a drop")
        if self.repair != "none" and method("repair", self.repair).on_networks is None:
            raise ValueError(f"`repair: {self.repair}` is none of a trained network")
        return self

    @property
    def in_a_layer(self) -> bool:
        """Whether a decoder layer of the family is what stands there: the span's first one."""
        return in_a_layer(self.network, self.form)

    @field_serializer("training")
    def _held_out_stands_elsewhere(self, training: Training) -> dict[str, Any]:
        return training.model_dump(exclude={"validation"})


class Merge(_Span):
    """The span becomes its first layer with mixed weights, Σ weights[i]·θ[start + i] (LaCo, arXiv 2402.11187).

    weights: one a layer, summing to 1. They say it all: merges of merged layers are mixes of original ones too.
    rule: how one merge made its weights. norms: `keep` leaves the first layer's norms as they are.
    """

    kind: Literal["merge"] = "merge"
    rule: Rule = "sum"
    norms: Norms = "keep"
    weights: list[float] = []  # empty in a file: those of one merge of the span by `rule`
    repair: Repair = "none"  # of the merged layer, with `refit` of those above too
    put_back: ClassVar[int] = 1

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        count = self.stop - self.start
        if count < 2:
            raise ValueError("a merge takes two layers or more")
        if not self.weights:
            self.weights = rule_weights(self.rule, count)
        sums = abs(sum(self.weights) - 1) < 1e-6 and all(abs(weight) < _LARGEST_WEIGHT for weight in self.weights)
        if len(self.weights) != count or not sums:
            raise ValueError(f"{count} layers need {count} weights that sum to 1, not {self.weights}")
        return self


def rule_weights(rule: Rule, count: int) -> list[float]:
    """The weight of each of `count` merged layers, the first being the one that stays (LaCo, arXiv 2402.11187).

    sum: θ_l + Σ(θ_{l+k} - θ_l), the paper's; last: where the published code's running base ends, the last layer's
    matrices; mean: all alike.
    """
    if rule == "sum":
        return [2.0 - count] + [1.0] * (count - 1)
    if rule == "last":
        return [0.0] * (count - 1) + [1.0]
    return [1 / count] * count


# What a plan keeps of the recipe, beside what it says of its calibration. How to train stands with what is trained, and
# here only where nothing is. `removed` is no key of a recipe: the net layers that a size to be kept came to. Keys that
# have been renamed (settings.OLDER_KEYS) keep their older spelling here: the same plan has the same bytes as ever.
SETTINGS = (
    *("remove", "layers", "keep_parameters", "keep_memory", "keep_latency", "removed"),
    *("select", "network", "form", "repair", "effort", "avoid_massive", "collapse", "strict", "for"),
    *("samples", "length", "calibration_length", "bos", "dtype", "training"),
)


def load_plainly(edits: Iterable[Drop | Replace | Merge]) -> bool:
    """Whether stock `from_pretrained` opens what edits leave."""
    return not any(
        (isinstance(edit, Replace) and not edit.in_a_layer)
        or (edit.repair != "none" and not method("repair", edit.repair).loads_plainly)
        for edit in edits
    )


Edit = Annotated[Drop | Replace | Merge, Field(discriminator="kind")]


class Plan(_Strict):
    """Ordered edits with scores and provenance. Edits name layers of the ORIGINAL model and never overlap.

    It holds all that its result depends on. settings: of the recipe, those of SETTINGS; None in a plan of format 1,
    which did not say. versions: of what it was made with, and the device and number format that it was computed in.
    restriction: of the cuts that could be chosen; it stands in a file only where there was one.
    """

    format: Literal[2] = 2
    model: ModelRecord
    preset: str
    calibration: CalibrationRecord
    settings: dict[str, Any] | None = None
    edits: list[Edit]
    scores: dict[str, Any] = {}
    layers_after: int
    parameters_before: int = Field(gt=0)
    parameters_after: int = Field(gt=0)
    loads_plainly: bool = True
    versions: dict[str, str] = {}
    restriction: RestrictionRecord | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_formats_open(cls, data: Any) -> Any:
        """In format 1 nothing began with BOS, and the share held out stood with what was trained, if anything was."""
        if not isinstance(data, dict) or data.get("format") != 1:
            return data
        calibration, edits = data.get("calibration"), data.get("edits")
        edits = edits if isinstance(edits, list) else []
        trainings = [edit.get("training") for edit in edits if isinstance(edit, dict)]
        shares = [one["validation"] for one in trainings if isinstance(one, dict) and "validation" in one]
        if shares and isinstance(calibration, dict):
            calibration = {"held_out": shares[0], **calibration}
        return {**data, "format": 2, "calibration": calibration}

    @model_validator(mode="after")
    def _settings_are_known(self) -> Self:
        unknown = sorted({*(self.settings or {})} - {*SETTINGS})
        if unknown:
            raise ValueError(f"the setting {unknown[0]!r} is none that a plan holds")
        removed = (self.settings or {}).get("removed")
        if removed is not None and (type(removed) is not int or removed < 1):
            raise ValueError(f"settings.removed is {removed!r}, no number of layers")
        return self

    @model_validator(mode="after")
    def _criterion_agrees(self) -> Self:
        """With the settings, and with what it looks at and answers."""
        named, selected = self.scores.get("criterion"), (self.settings or {}).get("select")
        if named is not None and selected is not None and named != selected:
            raise ValueError(f"scores.criterion is {named!r}, but settings.select {selected!r}")
        criterion = named if selected is None else selected
        row = methods("criterion").get(current_name("criterion", criterion)) if isinstance(criterion, str) else None
        if not self.edits and not (row is not None and row.decides_number):
            raise ValueError("there are no edits: nothing would be done")
        made = self.calibration
        if row is not None and row.looks_at != "sentences" and made.tokens != made.samples * made.length:
            raise ValueError(
                f"calibration.tokens is {made.tokens}, but {made.samples} samples of {made.length} are "
                f"{made.samples * made.length}"
            )
        return self

    @model_validator(mode="after")
    def _one_share_is_held_out(self) -> Self:
        share = self.calibration.held_out
        for edit in self.edits:
            if isinstance(edit, Replace):
                if edit.training.validation != share and "validation" in edit.training.model_fields_set:
                    raise ValueError(f"training holds out {edit.training.validation}, but calibration {share}")
                edit.training = edit.training.model_copy(update={"validation": share})
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        end = 0
        for edit in sorted(self.edits, key=lambda edit: edit.start):
            if edit.start < end:
                raise ValueError(f"edits overlap at layer {edit.start}")
            end = edit.stop
        if len({edit.repair for edit in self.edits if isinstance(edit, Drop | Merge)}) > 1:
            raise ValueError("drops and merges are repaired in one way, all of them or none")
        repaired = any(edit.repair != "none" for edit in self.edits if not isinstance(edit, Replace))
        if repaired and any(isinstance(edit, Replace) for edit in self.edits):
            raise ValueError("a network is trained on the dense model's states: repair no drop or merge beside it")
        if end > self.model.layers:
            raise ValueError(f"an edit ends at layer {end}, past the model's {self.model.layers}")
        _ = self.fitted_on  # complains now, not when it is applied
        if not isinstance(self.scores.get("held_out", {}), dict):
            raise ValueError("scores.held_out is no mapping")
        after = self.model.layers - sum(edit.stop - edit.start - edit.put_back for edit in self.edits)
        if after != self.layers_after or after < 1:
            raise ValueError(f"layers_after is {self.layers_after}, but the edits leave {after}")
        plain = load_plainly(self.edits)
        if "loads_plainly" in self.model_fields_set and self.loads_plainly != plain:
            raise ValueError(
                f"loads_plainly is {self.loads_plainly}, but what the edits leave does{'' if plain else ' not'}"
            )
        self.loads_plainly = plain
        return self

    @model_serializer(mode="wrap")
    def _no_restriction_where_there_was_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        if self.restriction is None:
            fields.pop("restriction", None)
        return fields

    @property
    def fitted_on(self) -> CalibrationRecord:
        """The windows that edits are fitted on; of merges, planned from sentences, others than `calibration`."""
        noted = self.scores.get("fitted_on")
        return self.calibration if noted is None else CalibrationRecord.model_validate(noted)

    @property
    def is_fitted(self) -> bool:
        """Whether applying it takes calibration tokens."""
        return any(isinstance(edit, Replace) or edit.repair != "none" for edit in self.edits)

    def _repr_html_(self) -> str:
        """For a notebook."""
        return str(load("lowrise.report.notebook:plan_html")(self))

    @property
    def model_name(self) -> str:
        """The last part of the source, for headings."""
        return self.model.source.rstrip("/").rpartition("/")[2] or self.model.source

    def to_json(self) -> str:
        """The text of a plan file."""
        return json.dumps(self.model_dump(), indent=2) + "\n"


def read_plan(path: Path) -> Plan:
    """Raises PlanError when the file is missing, not JSON, or not a plan."""
    what = "a plan file (a plan of format 1 or 2, as JSON)"
    content = read_json(path, PlanError, what, "make one with `lowrise plan`", lenient=True)  # scores may not be finite
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unknown_method":  # of a package, maybe, that is not installed here
            expected, found = first["msg"].removeprefix("Input should be "), repr(first["input"])
            near, remedy = first["ctx"]["remedy"], "install the package that has it"
            remedy = f"{near} Or {remedy}" if near.startswith("did") else remedy
            raise PlanError(f"{path}: {place}", expected, found, remedy) from error
        found = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"{path}: {place}".rstrip(": "), "a plan of format 1 or 2", found, "make it anew") from error


def check_plan_fits(plan: Plan, model: ModelRecord) -> None:
    """Refuse a plan made for another model, naming the first difference."""
    for field in ("family", "layers", "sha256"):
        check_plan_field(plan, field, getattr(model, field), model.source)


def check_plan_field(plan: Plan, field: str, found: object, source: str) -> None:
    """Raises PlanError where the model of `source` has another one than the plan's model."""
    planned = getattr(plan.model, field)
    if planned != found:
        raise PlanError(
            f"plan for {plan.model.source}",
            f"a model with {field} {planned}",
            f"{field} {found} in {source}",
            "apply the plan to its own model, or plan anew",
        )


def network_edit(
    start: int, stop: int, network: Network, form: Form, training: Training, repair: Repair
) -> Drop | Replace:
    """The edit that takes [start, stop) out, puts `network` there, and repairs what it can in closed form."""
    if network == "none":
        return Drop(start=start, stop=stop, repair=repair)
    return Replace(start=start, stop=stop, network=network, form=form, training=training, repair=repair)
