"""LaCo's search for merges that leave the model's output alike (https://arxiv.org/abs/2402.11187, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lowrise.calibration.sentences import Sentences
from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.model.same_architecture import layer_groups
from lowrise.plan import Merge
from lowrise.progress import Bar, Reporter
from lowrise.quality import is_collapse
from lowrise.recipe import Recipe
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, none_allowed
from lowrise.select.journal import Journal
from lowrise.select.selection import Selection
from lowrise.select.stack import Stack, Trial
from lowrise.settings import PAPER_THRESHOLD, MergeSearch
from lowrise.work import Work


@dataclass
class Search:
    """What a search did. Of `trials`, `layer` counts in the model as it was then, the span in the original's layers."""

    threshold: float | None
    trials: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, int]] = field(default_factory=list)
    edits: list[Merge] = field(default_factory=list)
    dense_loss: float = 0.0  # both stay 0 where nothing is merged
    loss: float = 0.0
    not_allowed: int = 0  # merges that were not tried since settings or engines could not express what they leave

    @property
    def accepted(self) -> list[dict[str, Any]]:
        return [trial for trial in self.trials if trial["accepted"]]

    @property
    def perplexity_ratio(self) -> float:
        return math.exp(min(self.loss - self.dense_loss, 700))

    @property
    def verdict(self) -> str:
        """`merged`, `nothing` (no trial was accepted) or `collapsed` (the output is lost: `lowrise.quality`)."""
        if not self.edits:
            return "nothing"
        return "collapsed" if is_collapse(self.perplexity_ratio) else "merged"

    def scores(self, settings: MergeSearch) -> dict[str, Any]:
        """For the plan: what was asked, every trial, and what the merges do to the loss on the sentences."""
        return {
            "criterion": "collapse",
            "settings": settings.model_dump(),
            "threshold": self.threshold,
            "verdict": self.verdict,
            "trials": self.trials,
            "skipped": self.skipped,
            "loss": {"dense": self.dense_loss, "after": self.loss, "perplexity_ratio": self.perplexity_ratio},
        }

    def tell(self, progress: Reporter, strict: bool, repaired: bool) -> None:
        """Say what came of it. With `strict`, raises RecipeError unless the verdict is `merged`.

        repaired: the merges will be, so that a collapse of them as they are is no verdict yet.
        """
        for span in self.skipped:
            progress.say(f"layers [{span['start']}, {span['stop']}) are of several kinds: not tried")
        if self.not_allowed:
            progress.say(f"{self.not_allowed} merges would leave what cannot be expressed: not tried")
        similarities = [trial["similarity"] for trial in self.trials]
        gone = sum(edit.stop - edit.start - 1 for edit in self.edits)
        if self.verdict == "nothing":
            best = f"the best of {len(similarities)} has {max(similarities):.4f}" if similarities else "none tried"
            found, remedy = f"no merge above the threshold {self.threshold:g}: {best}", "lower it, or say --remove N"
        else:
            found = f"{gone} layers gone, perplexity on the sentences ×{self.perplexity_ratio:,.2f}"
            remedy = "raise the threshold, or remove fewer layers"
        if self.verdict == "merged":
            progress.say(found)
        elif self.verdict == "collapsed" and repaired:
            progress.say(f"{found}, before repair")
        elif strict:
            raise RecipeError("--strict", "merges that keep the output", found, remedy)
        else:
            what = "nothing is merged" if self.verdict == "nothing" else "the output has collapsed"
            progress.warn(f"{what}: {found}; {remedy}")

    def note(self, trial: Trial) -> dict[str, Any]:
        """The trial's entry, not accepted as yet."""
        entry = {
            "layer": trial.layer,
            "count": trial.count,
            "start": trial.mix.start,
            "stop": trial.mix.stop,
            "similarity": trial.similarity,
            "accepted": False,
        }
        self.trials.append(entry)
        return entry

    def skip(self, stack: Stack, layer: int, count: int) -> None:
        span = {"start": stack.layers[layer].start, "stop": stack.layers[layer + count - 1].stop}
        if span not in self.skipped:
            self.skipped.append(span)


def check(decoder: Decoder, recipe: Recipe, k: int | None) -> None:
    check_settings(recipe.merge_search, len(decoder), k)


def choose(selection: Selection) -> Choice:
    """The merges; RecipeError, with `strict`, where none is found or the output is lost."""
    recipe, progress = selection.recipe, selection.progress
    search = merge_search(
        selection.decoder,
        selection.sentences,
        recipe.merge_search,
        selection.k,
        progress,
        selection.work,
        selection.cuts,
    )
    search.tell(progress, recipe.strict, repaired=recipe.repair != "none")
    spans = [(edit.start, edit.stop) for edit in search.edits]
    return Choice(spans, search.scores(recipe.merge_search), merges=search.edits)


def check_settings(settings: MergeSearch, layers: int, remove: int | None) -> None:
    """Raises RecipeError for a range or a C that does not fit a model of `layers` layers, or too much to remove."""
    high = settings.high if settings.high is not None else layers
    if high > layers:
        raise RecipeError(
            "merge_search.high", f"at most the {layers} layers of the model", str(high), "give a smaller one"
        )
    if settings.low >= high:
        raise RecipeError("merge_search.low", f"less than high ({high})", str(settings.low), "give a smaller one")
    if settings.combine > high - settings.low:
        found = f"{settings.combine} layers to combine"
        room = f"at most the {high - settings.low} layers of [{settings.low}, {high})"
        raise RecipeError("merge_search.combine", room, found, "combine fewer, or widen low and high")
    if remove is not None and remove > high - settings.low - 1:
        most = f"at most {high - settings.low - 1} layers, so that one of [{settings.low}, {high}) is left"
        raise RecipeError("--remove", most, str(remove), "remove fewer, or widen low and high")


def merge_search(
    decoder: Decoder,
    sentences: Sentences,
    settings: MergeSearch,
    remove: int | None,
    progress: Reporter,
    work: Work | None = None,
    cuts: AllowedCuts | None = None,
) -> Search:
    """Search for merges: all that pass the threshold, or, with `remove`, the most similar ones. Changes nothing.

    work: keeps what was tried, with `remove` round by round. cuts: merges are tried that are allowed by themselves, or,
    with `remove`, with which an allowed cut can still be reached; of fewer than C layers where none of C is.

    Raises RecipeError where settings and model do not fit, and when layers of several kinds, or cuts that are not
    allowed, stop `remove` short.
    """
    check_settings(settings, len(decoder), remove)
    allowed = _Allowed(cuts or AllowedCuts(len(decoder)), remove, staying(decoder, settings))
    high = settings.high if settings.high is not None else len(decoder)
    stack, journal = Stack(decoder, sentences, settings), Journal(work)
    search = Search(settings.threshold if settings.threshold is not None or remove else PAPER_THRESHOLD)
    if remove is None:
        with progress.bar("collapsing", high - settings.combine - settings.low + 1) as bar:
            _by_threshold(stack, settings, high, search, bar, journal, allowed)
    else:
        with progress.bar("collapsing", remove) as bar:
            _by_size(stack, settings, high, remove, search, bar, journal, allowed)
        search.threshold = math.nextafter(min(trial["similarity"] for trial in search.accepted), -math.inf)
    if search.accepted:
        search.dense_loss, search.loss = stack.losses()
    search.edits = [
        Merge(start=mix.start, stop=mix.stop, rule=settings.rule, norms=settings.norms, weights=list(mix.weights))
        for mix in stack.layers
        if len(mix.weights) > 1
    ]
    return search


@dataclass(frozen=True)
class _Allowed:
    """remove: layers that go in all; None: as many as pass the threshold. stays: layers that no merge takes in."""

    cuts: AllowedCuts
    remove: int | None
    stays: list[int]

    def merge(self, stack: Stack, layer: int, count: int) -> bool:
        if not self.cuts.restricted:
            return True
        gone = stack.gone_with(layer, count)
        if self.remove is None:
            return self.cuts.allows([one for one in range(self.cuts.layers) if one not in gone])
        return self.cuts.extends(gone, self.remove, self.stays)


def staying(decoder: Decoder, settings: MergeSearch) -> list[int]:
    """Layers that no merge can take into the one before them: outside the range, or of another kind than that one."""
    groups, high = layer_groups(decoder), settings.high if settings.high is not None else len(decoder)
    return [
        layer for layer in range(len(decoder)) if not settings.low < layer < high or groups[layer] != groups[layer - 1]
    ]


def _by_threshold(
    stack: Stack,
    settings: MergeSearch,
    high: int,
    search: Search,
    bar: Bar,
    journal: Journal,
    allowed: _Allowed,
) -> None:
    """Algorithm 1, line by line: from the top down, C layers at a time, keep every merge above the threshold."""
    assert search.threshold is not None
    layer = high - settings.combine
    while layer >= settings.low:
        count = min(settings.combine, len(stack.layers) - layer)
        before, accepted = layer, False
        if not allowed.merge(stack, layer, count):
            search.not_allowed += 1
        elif stack.same_group(layer, count):
            known = journal.known(1)
            trial = stack.attempt(layer, count, *(known or ()))
            if known is None:
                journal.keep([trial.similarity])
            accepted = trial.similarity > search.threshold
            search.note(trial)["accepted"] = accepted
            if accepted:
                stack.accept(trial)
        else:
            search.skip(stack, layer, count)
        layer -= settings.interval if accepted else 1
        if accepted:
            layer = min(layer, len(stack.layers) - settings.combine)
        bar.advance(0, f"{len(search.accepted)} merges", steps=before - layer)


def _by_size(
    stack: Stack,
    settings: MergeSearch,
    high: int,
    remove: int,
    search: Search,
    bar: Bar,
    journal: Journal,
    allowed: _Allowed,
) -> None:
    """Until `remove` layers are gone: try every merge of C layers in [low, high), accept the most similar one.

    Best first and not top down: Algorithm 1 takes whatever passes first from the top, so a size would hang on where
    its pass happens to stand when enough is gone. Every round's similarities are against the dense model and count
    all merges before, so the least accepted one is what a threshold would have had to lie below. The last merge
    takes fewer layers when C would remove too many; the interval, which paces the pass, plays no part.
    """
    while remove:
        end = next(i for i, mix in enumerate(stack.layers) if mix.stop == high) + 1
        count = min(settings.combine, remove + 1, end - settings.low)
        best: tuple[Trial, dict[str, Any]] | None = None
        candidates = _candidates(stack, settings.low, end, count, search, allowed)
        while allowed.cuts.restricted and not candidates and count > 2:
            count -= 1
            candidates = _candidates(stack, settings.low, end, count, search, allowed)
        known = journal.known(len(candidates))
        similarities = []
        for number, layer in enumerate(candidates):
            trial = stack.attempt(layer, count, None if known is None else known[number])
            similarities.append(trial.similarity)
            entry = search.note(trial)
            if best is None or trial.similarity > best[0].similarity:
                best = trial, entry
        if known is None:
            journal.keep(similarities)
        if best is None and allowed.cuts.restricted:
            raise none_allowed(allowed.cuts, allowed.remove or 0)
        if best is None:
            left = f"no {count} adjacent layers of one kind when {remove} were still to go"
            raise RecipeError("--remove", "layers that can be merged", left, "combine fewer at a time, or remove fewer")
        trial, entry = best
        entry["accepted"] = True
        stack.accept(trial)
        remove -= count - 1
        bar.advance(0, f"similarity {trial.similarity:.4f}", steps=count - 1)


def _candidates(stack: Stack, low: int, end: int, count: int, search: Search, allowed: _Allowed) -> list[int]:
    """Current layers of [low, end) that `count` can be merged from."""
    layers = range(low, end - count + 1)
    same = [layer for layer in layers if stack.same_group(layer, count)]
    for layer in layers:
        if layer not in same:
            search.skip(stack, layer, count)
    return [layer for layer in same if allowed.merge(stack, layer, count)]
