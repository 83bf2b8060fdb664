"""refit's searches: one layer after the other, or the one span, always what the REPAIRED model misses least.

A similarity says how much a layer writes, not whether the others can be made to write it. So a trial takes a layer out,
lets the layer before it take over neurons of that one (`edit/neurons.py`) and write what meets the dense model's state
behind the gap, and asks how far the next-token distributions on held-out tokens are from the dense model's. Of the
repair's other steps a trial makes none; of a span's it makes the write alone. But those help a long gap more than short
ones. So the last word has a whole repair, on the same tokens: of the layers that went one by one, and of such a gap.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lowrise.calibration import Windows
from lowrise.methods import method
from lowrise.model.decoder import Decoder
from lowrise.model.refittable import refit_support
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Bar, Reporter
from lowrise.recipe import Recipe
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, as_text, choice_of_rounds, lowest, none_allowed, round_of, spans_of
from lowrise.select.journal import Journal
from lowrise.select.refit_trials import Search, Trial
from lowrise.select.selection import Selection
from lowrise.work import Work

# What a search budget of 1 spends. A layer that was among the worst in one round is not the best of the next.
FIT_TOKENS = 12_288
HELD_OUT_TOKENS = 1_024
LENGTH = 512  # tokens of a window at most
SHORTLIST = 6  # trials a round at most, of those that added least when tried last: first of all without moving neurons
LOOKED_AT = 2 / 3  # of all layers: those whose output is most like their input are tried first of all
# A repair's other steps help a long gap more than short ones, which a trial does not see, but not this much: a gap that
# is so many times further from the dense model is not repaired and compared.
FLATTERS = 1.75


def check(decoder: Decoder, _recipe: Recipe, _k: int) -> None:
    """Raises ModelError for a model whose layers cannot be refit."""
    refit_support(decoder)


def choose(selection: Selection) -> Choice:
    return choose_by_refit(*_of(selection))


def choose_span(selection: Selection) -> Choice:
    return choose_span_by_refit(*_of(selection))


def _of(selection: Selection) -> tuple[Decoder, Windows, Windows, int, float, Reporter, Work, AllowedCuts]:
    """What both searches take."""
    search_budget, progress, work = selection.recipe.search_budget, selection.progress, selection.work
    return selection.decoder, *selection.split, selection.count, search_budget, progress, work, selection.cuts


def choose_by_refit(
    decoder: Decoder,
    windows: Windows,
    held_out: Windows,
    k: int,
    search_budget: float,
    progress: Reporter,
    work: Work | None = None,
    cuts: AllowedCuts | None = None,
) -> Choice:
    """k layers, never the first: those that go one by one, or a span, of k or of k - 1 with one layer more. Of the two
    the one that is missed less once it is repaired.

    Changes nothing. windows: fitted, the first 12,288 tokens of them times `search_budget`; held_out: decides, the
    first 1,024 times that. Divergences and losses are means over positions, natural log; the loss afterwards is of a
    trial where both are the same layers, else of the repair. On disk lie the dense model's states of these tokens, what
    its MLPs are given, and a changed MLP for every two layers that a trial made neighbours; in memory one batch, the
    sums of one trial (`edit/neurons.py`), one changed MLP a gap, and the dense model's likeliest tokens at the deciding
    positions; at last, on disk and in memory, beside these what a repair needs (`edit/repair.py`). Where
    `refit_support` finds that writes cannot be solved, trials are drops. work: keeps the numbers of every round, whose
    best trial is made again. cuts: only layers are tried with which an allowed cut can still be reached. Raises
    RecipeError where there is none.
    """
    cuts = cuts or AllowedCuts(len(decoder))
    fitted, deciding = _spent(windows, held_out, search_budget)
    shortlist = shortlist_of(search_budget)
    finalists: list[dict[str, Any]] = []
    journal = Journal(work)
    with ActivationStore(decoder.store.folder) as store:
        count = len(decoder) - 1 if cuts.restricted else tried_first(len(decoder), k, shortlist)
        with progress.bar("searching", _trials(len(decoder), k, shortlist, count)) as bar:
            search = Search(decoder, fitted, deciding, store)
            first = sorted(lowest(search.unlike(1), count, _may_go(cuts, k)))
            alone, _ = _tried(search, first, bar, journal, moves=False)
            known = {layer: trial.divergence for layer, trial in alone.items()}
            rounds, known = _one_by_one(search, len(decoder), k, shortlist, known, bar, journal, cuts)
            layers = [one["removed"] for one in rounds]
            gap = _one_gap(search, k, shortlist, known, bar, journal, cuts) if k > 1 else None
        scores = choice_of_rounds("repaired", search.dense_loss, rounds).scores
        other = gap is not None and sorted(gap.layers) != sorted(layers)
        if gap is not None and other and not gap.divergence > FLATTERS * rounds[-1]["divergences"][layers[-1]]:
            finalists = _repaired(search, [layers, gap.layers], len(decoder), fitted.tokens, progress, journal)
            (best,) = lowest([one["divergence"] for one in finalists], 1, range(2))
            scores["layers"] = (layers, gap.layers)[best]
            scores["loss"]["after"] = finalists[best]["loss"]
    tokens = {"fitted": fitted.tokens, "held_out": deciding.tokens}
    return Choice(spans_of(scores["layers"]), {**scores, "finalists": finalists, "tokens": tokens})


def _may_go(cuts: AllowedCuts, k: int, gone: Collection[int] = ()) -> list[int]:
    """Layers that can go next, never the first one. Raises RecipeError where there are none."""
    found = cuts.removable(k, gone, method("criterion", "refit").staying(cuts.layers))
    if not found:
        raise none_allowed(cuts, k)
    return found


def shortlist_of(search_budget: float) -> int:
    """Trials a round, at most, of a search budget."""
    return max(min(2, SHORTLIST), round(SHORTLIST * search_budget))


def tried_first(layers: int, k: int, shortlist: int) -> int:
    """How many layers are tried first of all: enough that the shortlist is full to the end."""
    return min(layers - 1, max(k + shortlist, math.ceil(LOOKED_AT * layers)))


def _trials(layers: int, k: int, shortlist: int, first: int) -> int:
    """How many trials `choose_by_refit` makes of k of so many layers at most, `first` of them first of all."""
    one_by_one = first + sum(min(layers - 1 - done, shortlist) for done in range(k))
    one_gap = [min(layers - n, shortlist) for n in (k - 1, k, k)]  # spans of either length, one layer more
    return one_by_one + (sum(one_gap) if k > 1 else 0)


def _tried(
    search: Search, candidates: list[int], bar: Bar, journal: Journal, *, moves: bool = True
) -> tuple[dict[int, Trial], bool]:
    """As of `Search.trials`, and whether they were kept: then only their numbers are known."""
    known = journal.known(len(candidates))
    if known is not None:
        bar.advance(0, "kept from before", steps=len(candidates))
        return {layer: Trial(-1, {}, loss, divergence) for layer, loss, divergence in known}, True
    trials = search.trials(candidates, bar, moves=moves)
    journal.keep([[layer, trial.loss, trial.divergence] for layer, trial in trials.items()])
    return trials, False


def _one_by_one(
    search: Search,
    layers: int,
    k: int,
    shortlist: int,
    alone: dict[int, float],
    bar: Bar,
    journal: Journal,
    cuts: AllowedCuts,
) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """(k rounds, each without the layer that the ones before left missed least; what each layer added in the first).

    alone: what each adds without moving neurons, tried first.
    """
    rounds: list[dict[str, Any]] = []
    known, reached = dict(alone), 0.0  # what each added when it was tried last
    first = known
    for number in range(k):
        may_go = _may_go(cuts, k, [one["removed"] for one in rounds])
        listed = lowest(known, shortlist, [one for one in may_go if one in known])
        gone, trial, kept, losses, divergences = _round(search, listed, known if number else {}, reached, bar, journal)
        search.remove([gone], search.trials([gone], None)[gone] if kept else trial)
        rounds.append(
            {**round_of(gone, losses, layers), "divergences": [divergences.get(layer) for layer in range(layers)]}
        )
        if not number:
            known = first = {**_as_if_moved(alone, divergences), **divergences}
        known = {**known, **{layer: divergence - reached for layer, divergence in divergences.items()}}
        reached += known.pop(gone)
    return rounds, first


def _round(
    search: Search, listed: list[int], known: dict[int, float], reached: float, bar: Bar, journal: Journal
) -> tuple[int, Trial, bool, dict[int, float], dict[int, float]]:
    """(the best layer, its trial, whether that was kept, so that only its numbers are known, the losses and the
    divergences of those tried).

    A layer adds hardly less than before, now that others are gone. So layers are tried in the order of what they added,
    `known`, until the best trial adds less than the next layer did; without it all of `listed` are.
    """
    losses: dict[int, float] = {}
    divergences: dict[int, float] = {}
    best: tuple[int, Trial, bool] | None = None
    for place, layer in enumerate(listed):
        if best is not None and layer in known and best[1].divergence - reached <= known[layer]:
            for _ in listed[place:]:
                bar.advance(0, "not tried")
            break
        tried, kept = _tried(search, [layer], bar, journal)
        losses[layer], divergences[layer] = tried[layer].loss, tried[layer].divergence
        if lowest(divergences, 1, divergences) == [layer]:
            best = layer, tried[layer], kept
    assert best is not None
    return *best, losses, divergences


def _as_if_moved(alone: dict[int, float], moved: dict[int, float]) -> dict[int, float]:
    """What layers add, tried without moving neurons, brought to what they would add with: by the median ratio of those
    that were tried both ways.
    """
    ratios = sorted(moved[layer] / alone[layer] for layer in moved if alone[layer] > 0)
    ratio = ratios[len(ratios) // 2] if ratios else 1.0
    return {layer: value * ratio for layer, value in alone.items()}


@dataclass(frozen=True)
class _Gap:
    """A cut with one long gap, and its trial's divergence; layers in the order of the search."""

    layers: list[int]
    divergence: float


def _one_gap(
    search: Search,
    k: int,
    shortlist: int,
    known: dict[int, float],
    bar: Bar,
    journal: Journal,
    cuts: AllowedCuts,
) -> _Gap | None:
    """k > 1 layers: the span of k that is missed least or, if that is missed less, that of k - 1 and one layer more.
    None where no such cut is allowed. known: what each layer adds alone.

    By their trials, of which that of the one layer more moves neurons, so that it is a little ahead.
    """
    allowed = {n: _spans(cuts, n, k) for n in (k, k - 1)}
    found: list[_Gap] = []
    if allowed[k]:
        whole, missed, _ = _best_span(search, k, shortlist, bar, journal, allowed[k])
        found.append(_Gap([*whole], missed.divergence))
    if allowed[k - 1]:
        shorter, trial, kept = _best_span(search, k - 1, shortlist, bar, journal, allowed[k - 1])
        if kept:
            trial = search.span(shorter.start, shorter.stop)
        search.again()
        search.remove(shorter, trial)
        listed = lowest(known, shortlist, [one for one in _may_go(cuts, k, shorter) if one in known])
        more, trial, _, _, _ = _round(search, listed, known, trial.divergence, bar, journal)
        found.insert(0, _Gap([*shorter, more], trial.divergence))
    if not found:
        return None
    (best,) = lowest([one.divergence for one in found], 1, range(len(found)))
    return found[best]


def _spans(cuts: AllowedCuts, n: int, k: int) -> list[int]:
    """Where spans of n layers begin, without the first layer, with which an allowed cut of k can be reached."""
    stays = method("criterion", "refit").staying(cuts.layers)
    starts = range(1, cuts.layers - n + 1)
    return [start for start in starts if cuts.extends(range(start, start + n), k, stays)]


def _best_span(
    search: Search, n: int, shortlist: int, bar: Bar, journal: Journal, starts: Sequence[int]
) -> tuple[range, Trial, bool]:
    """The span of n that is missed least, its trial, and whether that was kept; as many are tried as are on the
    shortlist, those of the highest cosine between input and output. starts: where it may begin, at least one.
    """
    unlike = search.unlike(n)
    divergences: dict[int, float] = {}
    for start in lowest(unlike, shortlist, starts):
        trial, kept = _span(search, start, start + n, journal)
        divergences[start] = trial.divergence
        bar.advance(search.positions, f"{n} layers from {start}")
        if lowest(divergences, 1, divergences) == [start]:
            best = range(start, start + n), trial, kept
    return best


def _span(search: Search, start: int, stop: int, journal: Journal) -> tuple[Trial, bool]:
    """As of `Search.span`, and whether it was kept: then only its numbers are known."""
    known = journal.known(2)
    if known is not None:
        loss, divergence = known
        return Trial(-1, {}, loss, divergence), True
    trial = search.span(start, stop)
    journal.keep([trial.loss, trial.divergence])
    return trial, False


def _repaired(
    search: Search, choices: list[list[int]], layers: int, tokens: int, progress: Reporter, journal: Journal
) -> list[dict[str, Any]]:
    """What the model would be without each choice of its layers, repaired. tokens: that each is fitted on."""
    found: list[dict[str, Any]] = []
    with progress.bar("comparing", sum(layers - len(gone) - min(gone) + 1 for gone in choices)) as bar:
        for gone in choices:
            (loss, divergence), known = journal.step(
                2,
                lambda gone=gone: [*search.dry_run(gone, lambda layer: bar.advance(tokens, f"layer {layer}"))],  # type: ignore[misc]
            )
            if known:
                bar.advance(0, "kept from before", steps=layers - len(gone) - min(gone) + 1)
            found.append({"spans": spans_of(gone), "loss": loss, "divergence": divergence})
    said = [f"without {as_text(one['spans'])} {one['divergence']:.4f}" for one in found]
    progress.say(f"held-out divergence, repaired: {', '.join(said)}")
    return found


def choose_span_by_refit(
    decoder: Decoder,
    windows: Windows,
    held_out: Windows,
    k: int,
    search_budget: float,
    progress: Reporter,
    work: Work | None = None,
    cuts: AllowedCuts | None = None,
) -> Choice:
    """The span of k layers, without the first, that the layer before it bridges best. Changes nothing.

    Tokens and numbers as of `choose_by_refit`, and trials are drops where they are there. On disk lie the dense model's
    states; in memory one batch, two matrices' sums, one changed matrix, and the dense model's likeliest tokens at the
    deciding positions. work: keeps every trial. cuts: only allowed spans are tried. Raises RecipeError where there is
    none.
    """
    journal = Journal(work)
    fitted, deciding = _spent(windows, held_out, search_budget)
    cuts = cuts or AllowedCuts(len(decoder))
    starts = cuts.spans(k, method("criterion", "refit-span").staying(len(decoder)))
    if not starts:
        raise none_allowed(cuts, k)
    losses: dict[int, float] = {}
    divergences: dict[int, float] = {}
    with ActivationStore(decoder.store.folder) as store, progress.bar("searching", len(starts)) as bar:
        search = Search(decoder, fitted, deciding, store, moves=False)
        for start in starts:
            trial, _ = _span(search, start, start + k, journal)
            losses[start], divergences[start] = trial.loss, trial.divergence
            bar.advance(fitted.tokens, f"divergence {min(divergences.values()):.3f}")
    (best,) = lowest(divergences, 1, starts)
    scores = {
        "criterion": "repaired-span",
        "span": k,
        "bridged": search.writes,
        "divergences": [divergences.get(start) for start in range(len(decoder) - k + 1)],
        "losses": [losses.get(start) for start in range(len(decoder) - k + 1)],
        "loss": {"dense": search.dense_loss, "after": losses[best]},
        "tokens": {"fitted": fitted.tokens, "held_out": deciding.tokens},
    }
    return Choice([(best, best + k)], scores)


def _spent(windows: Windows, held_out: Windows, search_budget: float) -> tuple[Windows, Windows]:
    """What is fitted and what decides: of as many documents as can be; before any text, of what the model wrote.

    So few tokens of a text are of its domain, and layers chosen on them are what that domain needs least.
    """
    windows, held_out = (one.written_first().pieces(LENGTH) for one in (windows, held_out))
    counts = (max(1, int(tokens * search_budget) // windows.length) for tokens in (FIT_TOKENS, HELD_OUT_TOKENS))
    fitted, deciding = (of.first(count) for of, count in zip((windows, held_out), counts, strict=True))
    return fitted, deciding
