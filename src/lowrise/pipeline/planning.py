"""Observe and select: what to do to which layers."""

from __future__ import annotations

from collections.abc import Sequence

from lowrise.calibration import Windows
from lowrise.calibration.sentences import Sentences
from lowrise.edit.count import parameters_after
from lowrise.edit.student import layers_left, student_of
from lowrise.errors import PlanError
from lowrise.measure.system import versions
from lowrise.methods import load, method
from lowrise.model.custom import refuse_network
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.observe.stream import Observation, kept_observation
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.context import Run
from lowrise.pipeline.opening import calibration_record, check_memory
from lowrise.pipeline.repairing import HeldOutLoss, check_repairs, held_out_windows, special_tokens
from lowrise.pipeline.restricting import (
    check_plan_allowed,
    refuse_not_allowed,
    restriction_record,
    restrictions_of,
    tell_restriction,
)
from lowrise.pipeline.sizing import naming_size
from lowrise.plan import SETTINGS, Drop, Merge, Plan, Replace, check_plan_fits, load_plainly, network_edit
from lowrise.planned import settings_of, true_to_edits
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.scores import scores_of
from lowrise.select.choice import Choice, as_text
from lowrise.select.selection import Selection


def plan_edits(
    run: Run, opened: OpenModel, k: int | None, tokens: Windows | Sentences, fitted_on: Windows | None
) -> tuple[Plan, Observation | None, HeldOutLoss | None]:
    """The plan, what was seen of the layers, if the criterion looks at states, and the held-out loss.

    k: layers to take out, as of `open_for_planning`. tokens: what the criterion looks at. fitted_on: what edits are
    fitted on. The loss is measured on what they are not fitted on; there is none for a criterion by sentences whose
    edits are fitted on nothing.
    """
    decoder, recipe = opened.decoder, run.recipe
    if fitted_on is not None and (recipe.put_back or recipe.repair != "none"):
        held_out_windows(recipe, fitted_on)  # refuses, before anything is computed, what cannot be split
    kept = _kept(run, len(decoder))
    if kept is not None:
        plan, seen = kept
        tell_restriction(plan, run.progress)
        on = _measured_on(recipe, tokens, fitted_on, plan.edits)
        dense = plan.scores.get("held_out", {}).get("dense")
        return plan, seen, None if on is None else HeldOutLoss(decoder, on, run.clock, dense)
    warned = len(run.progress.warnings)
    given = (decoder, k, recipe, tokens, special_tokens(opened), run.progress, run.work)
    selection = Selection(*given, restrictions=restrictions_of(decoder, recipe.for_engines))
    choice = _choose(selection, run.clock)
    refuse_not_allowed(selection, choice)
    edits = _edits(recipe, choice)
    _check_cut(decoder, edits)
    on = _measured_on(recipe, tokens, fitted_on, edits)
    held_out_loss, noted = None, {}
    if on is not None:
        held_out_loss = HeldOutLoss(decoder, on, run.clock)
        noted["held_out"] = held_out_loss.scores(_loss_after(held_out_loss, decoder, edits))
    if isinstance(tokens, Sentences) and fitted_on is not None and edits:
        noted["fitted_on"] = calibration_record(recipe, fitted_on).model_dump()
    named = {"criterion": method("criterion", recipe.select).name_in_plans}
    plan = Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=calibration_record(recipe, tokens),
        settings=settings_of(recipe, None if k is None else k - recipe.put_back),
        edits=[*edits],
        scores={**named, **choice.scores, **noted, **named},  # first, and whatever its own scores say
        layers_after=len(decoder) - sum(edit.stop - edit.start - edit.put_back for edit in edits),
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, edits),
        loads_plainly=load_plainly(edits),
        versions=_made_with(decoder),
        restriction=restriction_record(selection.cuts, choice),
    )
    tell_restriction(plan, run.progress)
    value = {"plan": plan.model_dump(), "seen": selection.seen is not None, "warnings": run.progress.warnings[warned:]}
    run.work.keep("plan", value, what="the plan")
    return plan, selection.seen, held_out_loss


def _kept(run: Run, layers: int) -> tuple[Plan, Observation | None] | None:
    """The plan and what was seen before it, if both were kept; what was said of them is said again."""
    kept = run.work.find("plan")
    seen = None if kept is None or not kept.value["seen"] else kept_observation(run.work, layers)
    if kept is None or (kept.value["seen"] and seen is None):
        return None
    plan = Plan.model_validate(kept.value["plan"])
    run.progress.say(f"plan: kept from before, layers {as_text((edit.start, edit.stop) for edit in plan.edits)}")
    for warning in kept.value["warnings"]:
        run.progress.warn(warning)
    return plan, seen


def _measured_on(
    recipe: Recipe, tokens: Windows | Sentences, fitted_on: Windows | None, edits: Sequence[Drop | Replace | Merge]
) -> Windows | None:
    """What the loss before and after is measured on, of windows that edits are not fitted on where there are such."""
    on = tokens if isinstance(tokens, Windows) else fitted_on if edits else None
    return None if on is None else held_out_windows(recipe, on) if len(on) > 1 else on


def _choose(selection: Selection, clock: Clock) -> Choice:
    """By the recipe's criterion, said."""
    row = method("criterion", selection.recipe.select)
    stage = clock.stage("observe" if row.looks_at == "states" else "search")
    with stage, naming_size(selection.recipe):
        choice: Choice = load(str(row.function))(selection)
    if choice.merges is None:
        selection.progress.say(f"chosen: layers {as_text(choice.spans)}")
    if selection.seen is not None:
        _warn_of_writers(row.name, choice, selection.seen.massive.writers(), selection.progress)
    return choice


def _edits(recipe: Recipe, choice: Choice) -> Sequence[Drop | Replace | Merge]:
    if choice.merges is not None:
        return [merge.model_copy(update={"repair": recipe.repair}) for merge in choice.merges]
    how = (recipe.network, recipe.form, recipe.training, recipe.repair)
    return [network_edit(start, stop, *how) for start, stop in choice.spans]


def _check_cut(decoder: Decoder, edits: Sequence[Drop | Replace | Merge]) -> None:
    """Raises ModelError where layers that are left would not be those that they were."""
    kept = layers_left(len(decoder), edits)
    if 0 < len(kept) < len(decoder):
        decoder.check_cut(kept)


def _loss_after(held_out_loss: HeldOutLoss, decoder: Decoder, edits: Sequence[Drop | Replace | Merge]) -> float | None:
    """What plain drops lead to; what is trained or repaired is known once that is done."""
    drops = [edit for edit in edits if isinstance(edit, Drop) and edit.repair == "none"]
    return held_out_loss.student_loss(student_of(decoder, drops)) if len(drops) == len(edits) else None


def _made_with(decoder: Decoder) -> dict[str, str]:
    return {**versions(), "device": decoder.device.type, "dtype": str(decoder.dtype).removeprefix("torch.")}


def _warn_of_writers(criterion: str, choice: Choice, writers: list[int], progress: Reporter) -> None:
    """What states say of a layer that writes massive activations is worth little (METHODS 5)."""
    inside = [writer for writer in writers if any(start <= writer < stop for start, stop in choice.spans)]
    if inside:
        progress.warn(
            f"layers {as_text(choice.spans)}, chosen by {criterion}, hold layer {inside[0]}, which writes massive "
            f"activations, so that {criterion} says little of it; {choice.way_out}"
        )


def check_plan(plan: Plan, opened: OpenModel, for_engines: Sequence[str] | None = None) -> None:
    """Raises PlanError or ModelError for what cannot be done to this model, or what the page could not read of the
    plan, before anything is computed. for_engines: None for those that the plan was made for.
    """
    refuse_network(opened.decoder)
    check_plan_fits(plan, opened.record)
    check_plan_allowed(plan, opened.decoder, for_engines)
    scores_of(plan)
    _check_cut(opened.decoder, plan.edits)
    check_repairs(opened.decoder, plan.edits)
    check_memory(opened.decoder, [method("repair", edit.repair) for edit in plan.edits if edit.repair != "none"])


def held_out_loss_of(run: Run, plan: Plan, opened: OpenModel, windows: Windows) -> HeldOutLoss:
    """For a plan that is fitted on `windows`. Raises PlanError as of `check_tokens`."""
    check_tokens(plan, windows, run.progress)
    check_versions(plan, opened.decoder, run.progress)
    return HeldOutLoss(opened.decoder, held_out_windows(run.recipe, windows), run.clock)


def check_counts(plan: Plan, decoder: Decoder) -> Plan:
    """Raises PlanError where a plan says other parameters than its edits leave; one of format 1 is counted anew."""
    counts = {"parameters_before": decoder.parameters(), "parameters_after": parameters_after(decoder, plan.edits)}
    if plan.settings is None:
        return plan.model_copy(update=counts)
    for name, count in counts.items():
        if getattr(plan, name) != count:
            expected = f"{name} {count}, as {'the model has' if name.endswith('before') else 'its edits leave'}"
            found = f"{getattr(plan, name)}"
            raise PlanError(f"plan for {plan.model.source}", expected, found, "correct it, or plan anew")
    return plan


def tell_changes(plan: Plan, progress: Reporter) -> Plan:
    """With settings that are true to its edits; a warning names those that were not."""
    true = true_to_edits(plan)
    if true.settings is not None and plan.settings is not None and true is not plan:
        said = [key for key in SETTINGS if true.settings.get(key) != plan.settings.get(key)]
        now = ", ".join(f"{key} {true.settings[key]}" for key in said if true.settings.get(key) is not None)
        progress.warn(f"the plan's edits were changed by hand: beside preset {plan.preset} its recipe now says {now}")
    return true


def check_tokens(plan: Plan, windows: Windows, progress: Reporter) -> None:
    """Raises PlanError where a plan's texts give other tokens than they did. What a model writes may differ by device:
    of that, and of texts that a plan of format 1 could not name, there is a warning.
    """
    if windows.sha256() == plan.fitted_on.sha256:
        return
    if plan.settings is not None and plan.fitted_on.written == 0:
        expected = f"tokens of sha256 {plan.fitted_on.sha256[:16]}, as the plan was made from"
        found = f"others, sha256 {windows.sha256()[:16]}: another tokenizer, or another state of the data"
        raise PlanError(windows.source, expected, found, "plan anew")
    progress.warn(f"fitted on {windows.source}, not on the tokens that the plan was made from")


def check_versions(plan: Plan, decoder: Decoder, progress: Reporter) -> None:
    """Warn of what differs from where the plan was made: the last digits of what is fitted may."""
    here = _made_with(decoder)
    other = [f"{name} {was}, here {here[name]}" for name, was in plan.versions.items() if here.get(name, was) != was]
    if other:
        progress.warn(f"the plan was made with {'; '.join(other)}: what is fitted may differ from what `run` made")
