"""Cuts that the model's settings, and the engines that are named, can express: how many layers may go, and which."""

from __future__ import annotations

from collections.abc import Sequence

from lowrise import engines
from lowrise.edit.student import layers_left
from lowrise.errors import PlanError, RecipeError
from lowrise.methods import load, method
from lowrise.model.decoder import Decoder
from lowrise.plan import Plan
from lowrise.progress import Reporter
from lowrise.provenance import RestrictionRecord
from lowrise.recipe import Recipe
from lowrise.report import words
from lowrise.restriction import AllowedCuts, Restriction
from lowrise.select.choice import Choice, as_text, breaks
from lowrise.select.merge_search import staying
from lowrise.select.selection import Selection


def restrictions_of(decoder: Decoder, for_engines: Sequence[str]) -> list[Restriction]:
    """Of the dense model's settings, and of the engines that are named. Raises RecipeError for one that refuses it."""
    return [*decoder.restrictions, *engines.restrictions(decoder.model.config, for_engines)]


def check_allowed(recipe: Recipe, decoder: Decoder, net: int | None) -> None:
    """Raises RecipeError, before anything is computed, where no cut of so many net layers is allowed, naming the
    numbers that are; and where a criterion that looks at nothing chooses one that is not.
    """
    selection = _looking_at_nothing(recipe, decoder)
    if not selection.cuts.restricted:
        return
    if method("criterion", recipe.select).looks_at == "nothing":
        _choose(selection, net)
    elif net is not None and net not in (numbers := _numbers(selection)):
        left = [len(decoder) - n for n in reversed(numbers)]
        expected = f"{in_words(numbers)} layers to go, so that {in_words(left)} are left: {_reasons(selection.cuts)}"
        raise RecipeError("--remove", expected, f"{net}", "give such a number")


def allowed_numbers(recipe: Recipe, decoder: Decoder) -> Sequence[int]:
    """Net layers that the recipe's criterion can take out, ascending; without restrictions all numbers.

    Raises RecipeError where there are none.
    """
    selection = _looking_at_nothing(recipe, decoder)
    return _numbers(selection) if selection.cuts.restricted else range(1, len(decoder))


def _numbers(selection: Selection) -> list[int]:
    """As of `allowed_numbers`, where cuts are restricted."""
    decoder, recipe, cuts, every = selection.decoder, selection.recipe, selection.cuts, range(1, selection.layers)
    row = method("criterion", recipe.select)
    stays = staying(decoder, recipe.merge_search) if "merge_search" in row.settings else row.staying(len(decoder))
    if not row.one_span:
        numbers = [len(decoder) - depth for depth in reversed(cuts.depths(stays))]
    elif row.looks_at == "nothing":
        numbers = [n for n in every if _can_choose(selection, n)]
    else:
        numbers = [n for n in every if cuts.spans(n + recipe.put_back, stays, selection.left)]
    if not numbers:
        expected = f"a cut that can be expressed: {_reasons(cuts)}"
        raise RecipeError("--preset", expected, f"{recipe.select}, which can make none", "choose another preset")
    return numbers


def _looking_at_nothing(recipe: Recipe, decoder: Decoder) -> Selection:
    restrictions = restrictions_of(decoder, recipe.for_engines)
    return Selection(decoder, None, recipe, None, [], Reporter(quiet=True), restrictions=restrictions)


def _choose(selection: Selection, net: int | None) -> None:
    """Raises RecipeError where the criterion, which looks at nothing, chooses what is not allowed."""
    selection.k = None if net is None else net + selection.recipe.put_back
    choice = load(str(method("criterion", selection.recipe.select).function))(selection)
    refuse_not_allowed(selection, choice)


def _can_choose(selection: Selection, net: int) -> bool:
    try:
        _choose(selection, net)
    except RecipeError:
        return False
    return True


def _reasons(cuts: AllowedCuts) -> str:
    return "; ".join(cuts.reasons)


def refuse_not_allowed(selection: Selection, choice: Choice) -> None:
    """Raises RecipeError for a choice of a criterion that does not know of restrictions, one from outside maybe."""
    left = selection.left if choice.merges is None else 1
    broken = breaks(selection.cuts, [(start + left, stop) for start, stop in choice.spans])
    if broken:
        expected = f"layers whose cut can be expressed: {'; '.join(broken)}"
        found = f"{as_text(choice.spans)} to go, by {selection.recipe.select}"
        raise RecipeError("--preset", expected, found, "choose another preset, or remove another number of layers")


def restriction_record(cuts: AllowedCuts, choice: Choice) -> RestrictionRecord | None:
    """For the plan; None without restrictions."""
    if not cuts.restricted:
        return None
    cost = choice.cost
    if cost is None:
        return RestrictionRecord(reasons=cuts.reasons)
    return RestrictionRecord(
        reasons=cuts.reasons, score=cost.score, chosen=cost.chosen, unrestricted=cost.best, spans=cost.spans
    )


def tell_restriction(plan: Plan, progress: Reporter) -> None:
    record = plan.restriction
    for sentence in [] if record is None else record.sentences():
        progress.say(sentence)


def tell_engines(decoder: Decoder, for_engines: Sequence[str], progress: Reporter) -> None:
    """Before layers are chosen: engines, not named, that would read some choices wrong."""
    others = [engine for engine in engines.restricting(decoder.model.config) if engine.name not in for_engines]
    if others:
        titles, names = words.listed([one.title for one in others]), ",".join(one.name for one in others)
        progress.say(
            f"{titles} would read some cuts of this model wrong; --for {names} makes only such as are read right"
        )


def check_plan_allowed(plan: Plan, decoder: Decoder, for_engines: Sequence[str] | None) -> None:
    """Raises PlanError for edits, changed by hand maybe, that leave what cannot be expressed.

    for_engines: None for those that the plan was made for.
    """
    named = (plan.settings or {}).get("for", []) if for_engines is None else for_engines
    cuts = AllowedCuts(len(decoder), restrictions_of(decoder, named))
    broken = cuts.broken(layers_left(len(decoder), plan.edits))
    if broken:
        expected = f"edits whose result can be expressed: {'; '.join(broken)}"
        found = f"layers {as_text((edit.start, edit.stop) for edit in plan.edits)}"
        raise PlanError(f"plan for {plan.model.source}", expected, found, "change the edits, or plan anew")


def in_words(numbers: Sequence[int]) -> str:
    """Ascending ones, 1-3, 6 or 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [str(number) for run in runs for number in (run if len(run) < 3 else [f"{run[0]}-{run[-1]}"])]
    return " or ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0]
