"""What `apply` needs beside the model: the recipe that a plan was made by, and the texts it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrise.errors import PlanError, RecipeError, reason
from lowrise.methods import method
from lowrise.plan import SETTINGS, Plan, Replace
from lowrise.provenance import RestrictionRecord
from lowrise.reading import sha256_or_none
from lowrise.recipe import SIZES, Recipe, build_recipe, presets
from lowrise.settings import OLDER_KEYS, Training, current_keys
from lowrise.sizes import layers_to_remove, named_layers

_KEPT = ("keep_parameters", "keep_memory", "keep_latency")
_SAID_ALONE = ("layers", *_KEPT, "for")  # settings that stand in a plan if given
_OF_SIZES = (*_KEPT, "removed")
_IN_PLANS = {key: older for older, key in OLDER_KEYS.items()}  # see plan.SETTINGS
_SAYS_NO_TEXTS = "written by the model"  # as `source`, of a plan of format 1


def settings_of(recipe: Recipe, removed: int | None) -> dict[str, Any]:
    """The part of a recipe that a plan keeps as it is. removed: net layers that a size to be kept came to."""
    kept = recipe.model_dump(include={*current_keys(dict.fromkeys(SETTINGS))} - {"training"})
    settings = {_IN_PLANS.get(key, key): value for key, value in kept.items()}
    settings["select"] = method("criterion", recipe.select).name_in_plans
    for key in _SAID_ALONE:
        if settings[key] in (None, []):
            del settings[key]
    if any(getattr(recipe, key) is not None for key in SIZES if key != "remove"):
        settings["removed"] = removed
    if not any("merge_search" in row.settings for row in recipe.methods):
        del settings["collapse"]
    training = recipe.training.model_dump(exclude={"validation"})
    if recipe.network == "none" and training != Training().model_dump(exclude={"validation"}):
        settings["training"] = training  # said, though nothing is trained
    return settings


def true_to_edits(plan: Plan) -> Plan:
    """The plan with settings that say what its edits do, where these were changed by hand; else the plan itself.

    Then what was measured of other edits goes. A recipe says one network, one form and one repair: those of the first
    edit that has any. Raises PlanError for a size in the settings that is none.
    """
    if plan.settings is None or not plan.edits:
        return plan
    networks = [edit for edit in plan.edits if isinstance(edit, Replace)]
    said: dict[str, Any] = {
        "network": networks[0].network if networks else "none",
        "form": networks[0].form if networks else Recipe.model_fields["form"].default,
        "repair": next((edit.repair for edit in plan.edits if edit.repair != "none"), "none"),
        **_size(plan, plan.settings),
    }
    settings = {key: said.get(key, value) for key, value in plan.settings.items()}
    settings = {key: value for key, value in settings.items() if value is not None or key not in _OF_SIZES}
    if settings == plan.settings:
        return plan
    unknown = {"after": None, "perplexity_ratio": None, "collapsed": None}
    scores = dict(plan.scores)
    if "held_out" in scores:
        scores["held_out"] = {**scores["held_out"], **unknown}
    restriction = None if plan.restriction is None else RestrictionRecord(reasons=plan.restriction.reasons)
    return plan.model_copy(update={"settings": settings, "scores": scores, "restriction": restriction})


def _size(plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of how many layers go, or which, where the edits take out others."""
    gone = [layer for edit in plan.edits for layer in range(edit.start + edit.put_back, edit.stop)]
    try:
        if settings.get("layers") is not None:
            same = named_layers(settings["layers"]) == sorted(gone)
            return {} if same else {"layers": ",".join(map(str, sorted(gone)))}
        if "removed" in settings:
            wanted = settings["removed"]
        elif settings.get("remove") is not None:
            wanted = layers_to_remove(settings["remove"], plan.model.layers)
        else:
            return {}
    except (RecipeError, ValueError, AttributeError) as error:
        raise PlanError("the plan's settings", "a size that a recipe takes", reason(error), "correct it") from error
    if wanted in (None, len(gone)) or not gone:
        return {}
    return {"remove": str(len(gone)), **dict.fromkeys(_OF_SIZES)}


def recipe_of_plan(plan: Plan, given: dict[str, Any], where: str) -> Recipe:
    """The recipe that a run would have resolved. given: how to open and measure, and which texts and dataset to read.

    where: the plan's file. Raises RecipeError for settings that no recipe takes, PlanError for texts or a dataset other
    than the plan's, and for texts that are gone where the plan is fitted on them.
    """
    if plan.settings is None:
        return _recipe_of_format_1(plan, given)
    settings = true_to_edits(plan).settings or {}
    made_from = plan.calibration
    beside = made_from.sources or made_from.dataset is not None
    trained = [edit.training.model_dump() for edit in plan.edits if isinstance(edit, Replace)]
    untrained = {**settings.get("training", {}), "validation": made_from.held_out}
    known = {
        **{key: value for key, value in settings.items() if key != "removed"},
        "preset": plan.preset,
        "seed": made_from.seed,
        "dataset": made_from.dataset,
        "synthetic_share": made_from.written if beside else 0.0,
        "training": trained[0] if trained else untrained,
    }
    own = build_recipe(known, {"text": [text.path for text in made_from.sources]}, where=where)
    for name in ("dataset", "synthetic_share"):
        if name in given and str(given[name]) != str(getattr(own, name)):
            expected = f"{getattr(own, name) or 'none'}, as the plan was made with"
            raise PlanError(f"--{name.replace('_', '-')}", expected, str(given[name]), "leave it out, or plan anew")
    more = {key: value for key, value in given.items() if key not in ("text", "dataset", "synthetic_share")}
    text = _texts(plan, given.get("text", []), where)
    return build_recipe(own.model_dump(), more, {"text": text})


def _recipe_of_format_1(plan: Plan, given: dict[str, Any]) -> Recipe:
    """As far as it can be known: texts and settings of the search are not in such a plan, and BOS was never there."""
    made_from = plan.fitted_on
    if plan.is_fitted and not {"text", "dataset"} & given.keys() and made_from.source != _SAYS_NO_TEXTS:
        found = "none, and a plan of format 1 does not say where they are"
        raise PlanError("--text or --dataset", f"what the plan is fitted on, {made_from.source}", found, "name it")
    usual = presets()[plan.preset].settings.get("calibration_length") if plan.preset in presets() else None
    length = {} if made_from.length == usual else {"length": made_from.length}
    kept = {"preset": plan.preset, "samples": made_from.samples, "seed": made_from.seed, "bos": "never"}
    return build_recipe(kept, {"training": {"validation": plan.calibration.held_out}}, length, given)


def _texts(plan: Plan, given: list[str], where: str) -> list[str]:
    """Where the plan's texts are, in its order: among those that are given, by their hashes, else where they were.

    Raises PlanError for a text that is another one, or gone. Of a plan that is not fitted on them none is read that is
    not given.
    """
    sources = plan.calibration.sources
    if given and not sources:
        raise PlanError("--text", f"none: the plan was made from {plan.calibration.source}", given[0], "leave it out")
    found = {path: sha256_or_none(path) for path in given}
    for path, sha256 in found.items():
        if sha256 not in [text.sha256 for text in sources]:
            wanted = " or ".join(f"{Path(text.path).name}, sha256 {text.sha256[:16]}" for text in sources[:3])
            what = "nothing to read" if sha256 is None else f"another text, sha256 {sha256[:16]}"
            raise PlanError(f"--text {path}", f"a text that {where} was made from ({wanted})", what, "give that one")
    paths = []
    for text in sources:
        path = next((path for path in given if found[path] == text.sha256), text.path)
        if path == text.path and path not in found and plan.is_fitted and (now := sha256_or_none(path)) != text.sha256:
            what = "nothing to read there" if now is None else f"another text there, sha256 {now[:16]}"
            expected = f"the text that {where} was made from, sha256 {text.sha256[:16]}"
            raise PlanError(path, expected, what, "give it with --text")
        paths.append(path)
    return paths
