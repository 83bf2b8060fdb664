"""Choosing what to do to which layers, and doing it to a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowrise.api import stages
from lowrise.api.calibrating import GIVEN, fitting, keys_of, made_by, paths
from lowrise.api.models import Model
from lowrise.api.progress import Progress, reporting
from lowrise.calibration import Windows
from lowrise.edit.count import parameters_after
from lowrise.errors import PlanError, TextError
from lowrise.model.checkpoint import own_disagreement
from lowrise.pipeline.planning import check_plan
from lowrise.plan import CalibrationRecord, Plan, read_plan
from lowrise.planned import recipe_of_plan, true_to_edits
from lowrise.recipe import Recipe, build_recipe


def plan(
    model: Model,
    tokens: Windows | None = None,
    *,
    preset: str | None = None,
    remove: int | str | None = None,
    layers: Sequence[int] | str | None = None,
    progress: Progress = None,
    **settings: Any,
) -> Plan:
    """Choose layers, and what becomes of them. The model stays as it is.

    tokens: what the preset's criterion looks at, and what a repair is fitted on. None: they are made as the settings
    say (`text`, `dataset`, `samples`, ...; without any the model writes them). The merge search of `laco` looks at
    sentences: give `text=[...]` there; tokens beside it are for a repair. preset: a name of `lowrise presets`; `refit`
    by default, `given` where layers are given. remove: net layers, 8 or "25%". layers: these, 0-based, [12, 13, 14] or
    "12-14". settings: other keys of a recipe, as `repair="refit"`, `search_budget=2`, `merge_search={"combine": 3}`,
    `keep_parameters="1.1B"`.

    The plan is a pydantic model: `print(plan.to_json())`. Change its edits, if you like, before you apply it: what
    follows from them is counted anew there.
    Raises RecipeError for a setting that is unknown, out of range, or said otherwise by the tokens; TextError for
    tokens that the model or the preset cannot use; ModelError for a model that the preset cannot treat, or an edited
    one.

    >>> model = lowrise.open("org/name")
    >>> tokens = lowrise.calibrate(model, text=["a.txt"], samples=8, length=16)
    >>> plan = lowrise.plan(model, tokens, preset="block-influence", remove=2)
    >>> plan.layers_after, len(plan.scores["influence"])
    (4, 6)
    """
    opened = model.unedited()
    given = keys_of(settings)
    by_hand = layers if layers is None or isinstance(layers, str) else [*layers]
    size = {"preset": preset, "remove": remove, "layers": by_hand}
    given |= {key: value for key, value in size.items() if value is not None}
    recipe = build_recipe(given)  # which complains of what was given before the tokens' own settings come to it
    if tokens is not None:
        tokens = fitting(tokens, model)
        recipe = _recipe_over(tokens, given)
        if tokens.source == GIVEN:
            tokens = replace(tokens, seed=recipe.seed)
        if stages.looks_at_sentences(recipe) and recipe.repair == "none":
            expected = f"text=[...] and no tokens, since {recipe.preset} looks at sentences and fits nothing"
            raise TextError("tokens", expected, f"windows of {tokens.length} tokens", "leave them out")
    with model.at_work(), reporting(progress, "plan") as reporter:
        made = stages.planned(recipe, opened, tokens, reporter)
    model.warnings += reporter.warnings
    return made if tokens is None or tokens.source != GIVEN else _not_written(made, tokens)


def apply(
    model: Model,
    plan: Plan | str | Path,
    tokens: Windows | None = None,
    *,
    text: Sequence[str | Path] | str | Path = (),
    progress: Progress = None,
) -> Model:
    """Do what a plan says to `model` itself, in place, and return it: the dense model is no more.

    plan: of `lowrise.plan`, or a file. tokens: the windows that the plan was made from. None: where an edit is fitted
    on them they are made anew as the plan says, from its texts where they were, or `text` where they have moved.
    Raises PlanError for a plan of another model, other tokens than the plan's (both only where something is fitted), or
    edits that do not fit; ModelError for a model to which a plan was applied already.

    >>> model = lowrise.open("org/name")
    >>> plan = lowrise.plan(model, layers=[1, 2])
    >>> lowrise.apply(model, plan) is model
    True
    >>> model.layers, model.edited
    (4, True)
    """
    opened = model.unedited()
    wanted = _counted(read_plan(Path(plan)) if isinstance(plan, str | Path) else plan, model)
    with model.at_work(), reporting(progress, "apply") as reporter:
        check_plan(wanted, opened)
        windows, recipe = _to_fit_on(wanted, model, tokens, paths(text))
        if windows is None and wanted.is_fitted:
            windows = stages.calibrated(recipe, opened, reporter)
        disagreement = own_disagreement(opened.decoder) if model.wrapped else 0.0
        done, curves, fits = stages.edited(wanted, opened, windows, recipe, reporter)
    model.note(done, curves, fits, disagreement)
    model.warnings += reporter.warnings
    return model


def _recipe_over(tokens: Windows, given: dict[str, Any]) -> Recipe:
    """What is given, with what the tokens say of how they were made."""
    recipe = build_recipe(made_by(tokens, given), given)
    length = getattr(tokens, "settings", {}).get("length", tokens.length)
    if stages.looks_at_sentences(recipe) and recipe.repair == "none":
        return recipe
    if tokens.source == GIVEN:
        given = {**given, "samples": len(tokens)}
    more = {} if recipe.fitted_length == length else {"calibration_length": length}
    return build_recipe(made_by(tokens, {}), given, more)


def _not_written(plan: Plan, tokens: Windows) -> Plan:
    """Without a text and a dataset a recipe says that the model writes its tokens, which it did not here."""
    sha256 = tokens.sha256()
    if plan.calibration.sha256 == sha256:
        return plan.model_copy(update={"calibration": plan.calibration.model_copy(update={"written": 0.0})})
    noted = {**plan.scores["fitted_on"], "written": 0.0} if "fitted_on" in plan.scores else None
    return plan if noted is None else plan.model_copy(update={"scores": {**plan.scores, "fitted_on": noted}})


def _counted(plan: Plan, model: Model) -> Plan:
    """With the layers and parameters that its edits leave, which may have been changed by hand, checked."""
    decoder = model.opened.decoder
    data = plan.model_dump(exclude={"loads_plainly"})
    data["layers_after"] = plan.model.layers - sum(edit.stop - edit.start - edit.put_back for edit in plan.edits)
    try:
        counted = Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = first["msg"].removeprefix("Value error, ")
        raise PlanError(
            f"the plan: {place}".rstrip(": "), "edits that fit", found, "change them, or plan anew"
        ) from error
    if counted.model.layers != len(decoder):
        return counted  # of another model, which is refused by name elsewhere
    if counted.layers_after != plan.layers_after and not counted.is_fitted:
        held_out = {**counted.scores.get("held_out", {}), "after": None, "perplexity_ratio": None, "collapsed": None}
        counted.scores = {**counted.scores, "held_out": held_out}
    counted.parameters_after = parameters_after(decoder, counted.edits)
    return true_to_edits(counted)


def _to_fit_on(plan: Plan, model: Model, tokens: Windows | None, text: list[str]) -> tuple[Windows | None, Recipe]:
    """(tokens, if there are any, the recipe that edits look at). A plan that fits nothing looks at no tokens."""
    made_from = plan.fitted_on
    if not plan.is_fitted or tokens is not None:
        windows = _the_plans(tokens, made_from, model) if tokens is not None and plan.is_fitted else None
        return windows, Recipe(training={"validation": plan.calibration.held_out})
    if made_from.source == GIVEN and not text:
        raise PlanError(
            "tokens", f"ids of sha256 {made_from.sha256[:16]}, as the plan was made from", "none", "give them"
        )
    return None, recipe_of_plan(plan, {"text": text} if text else {}, "the plan")


def _the_plans(tokens: Windows, made_from: CalibrationRecord, model: Model) -> Windows:
    windows = replace(fitting(tokens, model), seed=made_from.seed)
    if windows.sha256() != made_from.sha256:
        expected = f"tokens of sha256 {made_from.sha256[:16]}, as the plan was made from ({made_from.source})"
        found = f"others, sha256 {windows.sha256()[:16]} ({windows.source})"
        raise PlanError("tokens", expected, found, "give those, or plan anew")
    return windows
