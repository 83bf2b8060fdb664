"""Observe and select: what to do to which layers."""

from __future__ import annotations

from collections.abc import Sequence

from lowrise.calibration import Windows
from lowrise.calibration.sentences import Sentences
from lowrise.edit.count import parameters_after
from lowrise.edit.student import student_of
from lowrise.errors import PlanError
from lowrise.measure.system import versions
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.observe.stream import Observation, observe
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.opening import calibration_record, layers_to_collapse
from lowrise.pipeline.repairing import Gate, held_out_windows, windows_to_refit
from lowrise.plan import Drop, Plan, Replace, network_edit
from lowrise.planned import settings_of
from lowrise.progress import Reporter
from lowrise.recipe import LOOKING_AT_STATES, Recipe, layers_to_remove
from lowrise.select.angular import choose_by_angle
from lowrise.select.block_influence import choose_by_influence
from lowrise.select.choice import Choice, as_text
from lowrise.select.collapse import collapse
from lowrise.select.cosine import choose_span
from lowrise.select.greedy import choose_greedily
from lowrise.select.random import choose_at_random
from lowrise.select.repaired import choose_repaired, choose_repaired_span
from lowrise.select.tail import choose_tail
from lowrise.select.taylor import choose_by_taylor


def plan_edits(
    recipe: Recipe,
    opened: OpenModel,
    windows: Windows | Sentences,
    fitted_on: Windows | None,
    report: Reporter,
    clock: Clock,
) -> tuple[Plan, Observation | None, Gate | None]:
    """The plan, what was seen on the way, and the gate for what comes of it.

    A search of merges observes nothing but its trials, and has a gate of its own, the loss on its sentences, which
    says nothing of merges that are repaired after it. fitted_on: what they will be repaired on.
    """
    decoder = opened.decoder
    if fitted_on is not None and (recipe.put_back or recipe.repair != "none"):
        held_out_windows(recipe, fitted_on)  # refuses, before anything is computed, what cannot be split
    if isinstance(windows, Sentences):
        plan = _collapse_plan(recipe, opened, windows, report, clock)
        if fitted_on is None or not plan.edits:
            return plan, None, None
        gate = Gate(decoder, held_out_windows(recipe, fitted_on), clock)
        noted = {"held_out": gate.scores(None), "fitted_on": calibration_record(recipe, fitted_on).model_dump()}
        return plan.model_copy(update={"scores": {**plan.scores, **noted}}), None, gate
    n = layers_to_remove(recipe.remove, len(decoder)) + recipe.put_back
    choice, observation = _choose(recipe, opened, windows, n, report, clock)
    gate = Gate(decoder, held_out_windows(recipe, windows) if len(windows) > 1 else windows, clock)
    how = (recipe.network, recipe.form, recipe.training, recipe.repair)
    edits = [network_edit(start, stop, *how) for start, stop in choice.spans]
    plan = Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=calibration_record(recipe, windows),
        settings=settings_of(recipe),
        edits=[*edits],
        scores={**choice.scores, "held_out": gate.scores(_loss_after(gate, decoder, edits))},
        layers_after=len(decoder) - n + recipe.put_back,
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, edits),
        loads_plainly=recipe.loads_plainly,
        versions=_made_with(decoder),
    )
    return plan, observation, gate


def _loss_after(gate: Gate, decoder: Decoder, edits: Sequence[Drop | Replace]) -> float | None:
    """What plain drops lead to; what is trained or repaired is known once that is done."""
    drops = [edit for edit in edits if isinstance(edit, Drop) and edit.repair == "none"]
    return gate.student_loss(student_of(decoder, drops)) if len(drops) == len(edits) else None


def _choose(
    recipe: Recipe, opened: OpenModel, windows: Windows, n: int, report: Reporter, clock: Clock
) -> tuple[Choice, Observation | None]:
    """n layers by the recipe's criterion, said; and what was seen of the layers, by criteria that look at states."""
    observation = None
    if recipe.select in LOOKING_AT_STATES:
        with clock.stage("observe"):
            observation = observe(opened.decoder, windows, report)
        choice = _by_states(recipe, observation, n)
    else:
        with clock.stage("search"):
            choice = _by_other_means(recipe, opened, windows, n, report)
    report.say(f"chosen: layers {as_text(choice.spans)}")
    if observation is not None:
        _warn_of_writers(choice, observation.massive.writers(), report)
    return choice, observation


def _by_states(recipe: Recipe, observation: Observation, n: int) -> Choice:
    match recipe.select:
        case "cosine":
            span = choose_span(observation, n, recipe.avoid_massive)
            return Choice([(span.start, span.stop)], span.scores)
        case "block-influence":
            return choose_by_influence(observation, n, recipe.avoid_massive)
        case "angular":
            return choose_by_angle(observation, n, recipe.avoid_massive)
    raise AssertionError(recipe.select)


def _by_other_means(recipe: Recipe, opened: OpenModel, windows: Windows, n: int, report: Reporter) -> Choice:
    decoder = opened.decoder
    match recipe.select:
        case "greedy-perplexity":
            return choose_greedily(decoder, windows, n, report)
        case "taylor":
            return choose_by_taylor(decoder, windows, n, report)
        case "repaired" | "repaired-span":
            fitted, held_out = windows_to_refit(opened, windows).split(recipe.training.validation)
            choose = choose_repaired if recipe.select == "repaired" else choose_repaired_span
            return choose(decoder, fitted, held_out, n, recipe.effort, report)
        case "tail":
            return choose_tail(len(decoder), n)
        case "random":
            return choose_at_random(len(decoder), n, recipe.seed)
    raise AssertionError(recipe.select)


def _collapse_plan(recipe: Recipe, opened: OpenModel, sentences: Sentences, report: Reporter, clock: Clock) -> Plan:
    decoder = opened.decoder
    with clock.stage("search"):
        search = collapse(decoder, sentences, recipe.collapse, layers_to_collapse(recipe, decoder), report)
    search.tell(report, recipe.strict, repaired=recipe.repair != "none")
    return Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=calibration_record(recipe, sentences),
        settings=settings_of(recipe),
        edits=[edit.model_copy(update={"repair": recipe.repair}) for edit in search.edits],
        scores=search.scores(recipe.collapse),
        layers_after=len(decoder) - sum(edit.stop - edit.start - 1 for edit in search.edits),
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, search.edits),
        versions=_made_with(decoder),
    )


def _made_with(decoder: Decoder) -> dict[str, str]:
    return {**versions(), "device": decoder.device.type, "dtype": str(decoder.dtype).removeprefix("torch.")}


def _warn_of_writers(choice: Choice, writers: list[int], report: Reporter) -> None:
    """What states say of a layer that writes massive activations is worth little (METHODS 5)."""
    inside = [writer for writer in writers if any(start <= writer < stop for start, stop in choice.spans)]
    if not inside:
        return
    criterion, spans = choice.scores["criterion"], as_text(choice.spans)
    what, way_out = f"layers {spans}, chosen by {criterion}, hold", "--avoid-massive keeps it"
    if criterion == "cosine":
        other, n = choice.scores["start_without_massive_writers"], choice.scores["span"]
        what, way_out = f"the span {spans} of the highest cosine holds", "every span of this length holds one"
        if other is not None:
            way_out = f"the best span without one is [{other}, {other + n}): --avoid-massive takes it"
    report.warn(
        f"{what} layer {inside[0]}, which writes massive activations, so that {criterion} says little of it; {way_out}"
    )


def check_tokens(plan: Plan, windows: Windows, report: Reporter) -> None:
    """Raises PlanError where a plan's texts give other tokens than they did. What a model writes may differ by device:
    of that, and of texts that a plan of format 1 could not name, there is a warning.
    """
    if windows.sha256() == plan.fitted_on.sha256:
        return
    if plan.settings is not None and plan.fitted_on.written == 0:
        expected = f"tokens of sha256 {plan.fitted_on.sha256[:16]}, as the plan was made from"
        found = f"others, sha256 {windows.sha256()[:16]}: another tokenizer, or another state of the data"
        raise PlanError(windows.source, expected, found, "plan anew")
    report.warn(f"fitted on {windows.source}, not on the tokens that the plan was made from")


def check_versions(plan: Plan, decoder: Decoder, report: Reporter) -> None:
    """Warn of what differs from where the plan was made: the last digits of what is fitted may."""
    here = _made_with(decoder)
    other = [f"{name} {was}, here {here[name]}" for name, was in plan.versions.items() if here.get(name, was) != was]
    if other:
        report.warn(f"the plan was made with {'; '.join(other)}: what is fitted may differ from what `run` made")
