"""Observe and select: what to do to which layers."""

from __future__ import annotations

from lowrise.calibration import Windows
from lowrise.calibration.sentences import Sentences
from lowrise.edit.count import parameters_after
from lowrise.model.source import OpenModel
from lowrise.observe.stream import Observation, observe
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.opening import layers_to_collapse
from lowrise.plan import Plan, network_edit
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, layers_to_remove
from lowrise.select.collapse import collapse
from lowrise.select.cosine import SpanChoice, choose_span


def plan_edits(
    recipe: Recipe, opened: OpenModel, windows: Windows | Sentences, report: Reporter, clock: Clock
) -> tuple[Plan, Observation | None]:
    """The plan, and what was seen on the way (a search of merges observes nothing but its trials)."""
    if isinstance(windows, Sentences):
        return _collapse_plan(recipe, opened, windows, report, clock), None
    if recipe.put_back:
        windows.split(recipe.training.validation)  # refuses, before anything is computed, what training cannot split
    decoder = opened.decoder
    n = layers_to_remove(recipe.remove, len(decoder)) + recipe.put_back
    with clock.stage("observe"):
        observation = observe(decoder, windows, report)
    choice = choose_span(observation, n, recipe.avoid_massive)
    _tell_choice(choice, n, report)
    edit = network_edit(choice.start, choice.stop, recipe.network, recipe.form, recipe.training)
    plan = Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=windows.record(),
        edits=[edit],
        scores=choice.scores,
        layers_after=len(decoder) - n + recipe.put_back,
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, [edit]),
        loads_plainly=recipe.loads_plainly,
    )
    return plan, observation


def _collapse_plan(recipe: Recipe, opened: OpenModel, sentences: Sentences, report: Reporter, clock: Clock) -> Plan:
    decoder = opened.decoder
    with clock.stage("search"):
        search = collapse(decoder, sentences, recipe.collapse, layers_to_collapse(recipe, decoder), report)
    search.tell(report, recipe.strict)
    return Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=sentences.record(),
        edits=[*search.edits],
        scores=search.scores(recipe.collapse),
        layers_after=len(decoder) - sum(edit.stop - edit.start - 1 for edit in search.edits),
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, search.edits),
    )


def _tell_choice(choice: SpanChoice, n: int, report: Reporter) -> None:
    report.say(f"chosen: layers [{choice.start}, {choice.stop})")
    inside = [writer for writer in choice.writers if choice.start <= writer < choice.stop]
    if inside:
        other = choice.without_writers
        way_out = "every span of this length holds one"
        if other is not None:
            way_out = f"the best span without one is [{other}, {other + n}): --avoid-massive takes it"
        report.warn(
            f"the span [{choice.start}, {choice.stop}) of the highest cosine holds layer {inside[0]}, which writes "
            f"massive activations, so that cosine says little of it; {way_out}"
        )
