"""The searches of refit, for layers and for a span, against trying everything on copies, on tiny models."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.student import Student
from lowrise.edit.writing import refit_write
from lowrise.measure.perplexity import perplexity
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from lowrise.select import refit_search
from lowrise.select.refit_search import choose_by_refit, choose_span_by_refit
from lowrise.select.refit_trials import Search
from naive import naive_transplant, through
from ridges import best_ridge
from tiny import windows, without

QUIET = Reporter(quiet=True)
RIDGES = (1e-2, 1e-1, 1.0)


def make(family: str) -> Decoder:
    return Decoder(tiny.model(family))


def try_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a shortlist, as where nothing is known of what layers add."""
    own = refit_search._round
    monkeypatch.setattr(refit_search, "_round", lambda search, listed, _known, *rest: own(search, listed, {}, *rest))


def test_the_search_keeps_its_shortlist_full_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    try_all(monkeypatch)
    monkeypatch.setattr("lowrise.select.refit_search.SHORTLIST", 2)
    choice = choose_by_refit(make("llama"), windows(4), windows(2, seed=1), tiny.LAYERS - 1, 1, QUIET)
    assert sorted(choice.scores["layers"]) == list(range(1, tiny.LAYERS))
    tried = [sum(loss is not None for loss in one["losses"]) for one in choice.scores["rounds"]]
    assert tried == [2, 2, 2, 2, 1]


def test_the_search_shortlists_by_what_a_layer_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divergence grows from round to round: a layer that was tried late would look worse than one tried early."""
    adds = {1: 0.1, 2: 0.2, 3: 0.25, 4: 0.28, 5: 0.33}
    removed: list[int] = []

    def trials(_search: Any, candidates: list[int], _bar: Any, **_how: Any) -> dict[int, Any]:
        reached = sum(adds[layer] for layer in removed)
        return {one: SimpleNamespace(loss=0.0, divergence=reached + adds[one]) for one in candidates}

    monkeypatch.setattr("lowrise.select.refit_search.SHORTLIST", 2)
    monkeypatch.setattr("lowrise.select.refit_search.Search.trials", trials)
    monkeypatch.setattr("lowrise.select.refit_search._one_gap", lambda *_search: None)
    monkeypatch.setattr("lowrise.select.refit_search.Search.remove", lambda _search, gone, _trial: removed.extend(gone))
    choice = choose_by_refit(make("llama"), windows(4), windows(2, seed=1), 3, 1, QUIET)
    tried = [[n for n, value in enumerate(one["losses"]) if value is not None] for one in choice.scores["rounds"]]
    assert tried == [[1, 2], [2], [3]]  # of two, the second only while what it added last is less than the first adds


@pytest.mark.parametrize(("grows", "expected"), [(0.04, [[1, 2], [2]]), (0.06, [[1, 2], [2, 3]])])
def test_a_layer_is_tried_while_it_may_be_better_than_the_best(
    grows: float, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once layer 1 is gone, layer 2 adds .2 and so much more; layer 3 added .25 before."""
    adds, removed = {1: 0.1, 2: 0.2, 3: 0.25, 4: 0.28, 5: 0.33}, list[int]()

    def trials(_search: Any, candidates: list[int], _bar: Any, **_how: Any) -> dict[int, Any]:
        reached = sum(adds[layer] for layer in removed)
        more = grows if removed else 0.0
        return {one: SimpleNamespace(loss=0.0, divergence=reached + adds[one] + more) for one in candidates}

    monkeypatch.setattr("lowrise.select.refit_search.LOOKED_AT", 1)
    monkeypatch.setattr("lowrise.select.refit_search.SHORTLIST", 2)
    monkeypatch.setattr("lowrise.select.refit_search.Search.trials", trials)
    monkeypatch.setattr("lowrise.select.refit_search._one_gap", lambda *_search: None)
    monkeypatch.setattr("lowrise.select.refit_search.Search.remove", lambda _search, gone, _trial: removed.extend(gone))
    choice = choose_by_refit(make("llama"), windows(4), windows(2, seed=1), 2, 1, QUIET)
    tried = [[n for n, value in enumerate(one["losses"]) if value is not None] for one in choice.scores["rounds"]]
    assert tried == expected


def test_what_a_layer_adds_with_neurons_is_foretold_from_what_it_adds_without() -> None:
    alone = {1: 0.4, 2: 0.5, 3: 0.6, 4: 1.0}
    assert refit_search._as_if_moved(alone, {1: 0.2, 2: 0.4, 3: 0.3}) == pytest.approx(
        {1: 0.2, 2: 0.25, 3: 0.3, 4: 0.5}
    )


@torch.no_grad()
def test_first_of_all_layers_are_tried_that_change_the_stream_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cosine of their input and output at the tokens that decide; enough for the rounds to come."""
    decoder, deciding = make("llama"), windows(2, seed=1)
    states = [h.double() for _, h in decoder.states(deciding.ids)]
    cosines = [float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in itertools.pairwise(states)]
    tried: list[int] = []
    own = Search.trials

    def noted(search: Search, candidates: list[int], *rest: Any, **how: Any) -> Any:
        tried.extend(() if how.get("moves", True) else candidates)
        return own(search, candidates, *rest, **how)

    monkeypatch.setattr("lowrise.select.refit_search.Search.trials", noted)
    monkeypatch.setattr("lowrise.select.refit_search.SHORTLIST", 2)
    choose_by_refit(decoder, windows(4), deciding, 1, 1, QUIET)
    assert tried == sorted(sorted(range(1, tiny.LAYERS), key=lambda layer: -cosines[layer])[:4])


def test_the_search_solves_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial far enough below the gap that was made last would be what it was before it."""
    monkeypatch.setattr("lowrise.select.refit_trials.neurons_apart", lambda _decoder: False)
    solved: list[int] = []

    def counted(place: Any, ridges: Any) -> Any:
        solved.append(place.layer)
        return refit_write(place, ridges)

    monkeypatch.setattr("lowrise.select.refit_trials.refit_write", counted)
    monkeypatch.setattr("lowrise.select.refit_search._one_gap", lambda *_search: None)  # the rounds alone
    try_all(monkeypatch)
    choice = choose_by_refit(make("llama"), windows(4), windows(2, seed=1), 2, 1, QUIET)
    gone = choice.scores["rounds"][0]["removed"]
    again = [one for one in range(1, tiny.LAYERS) if one >= gone - 1 and one != gone]
    first, more = solved[: tiny.LAYERS - 1], solved[tiny.LAYERS - 1 :]
    assert first == [*range(tiny.LAYERS - 1)]
    assert sorted(more) == sorted(one - 1 if one - 1 != gone else gone - 1 for one in again)


def test_the_search_sees_many_documents_and_short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of windows longer than it needs, the first part of each; every other one of those is cut short."""
    monkeypatch.setattr("lowrise.select.refit_search.LENGTH", 16)
    monkeypatch.setattr("lowrise.calibration.tokens.SHORT", 8)
    monkeypatch.setattr("lowrise.select.refit_search.FIT_TOKENS", 128)
    monkeypatch.setattr("lowrise.select.refit_search.HELD_OUT_TOKENS", 64)
    decoder, fitted, deciding = make("llama"), windows(8), windows(4, seed=1)
    seen, embed = set(), decoder.embed

    def watched(ids: torch.Tensor) -> Any:
        seen.update((len(row), tuple(row[:8].tolist())) for row in ids)
        return embed(ids)

    monkeypatch.setattr(decoder, "embed", watched)
    choose_by_refit(decoder, fitted, deciding, 1, 1, QUIET)
    firsts = [tuple(row[:8].tolist()) for rows in (fitted.ids, deciding.ids) for row in rows]
    assert {start for length, start in seen if length == 16} == set(firsts[::2])
    assert {start for length, start in seen if length == 8} > set(firsts[1::2])


def divergence(dense: Decoder, decoder: Decoder, layers: list[int], tokens: Windows) -> float:
    """Mean KL over positions of the dense model's 64 likeliest tokens and all the others as one."""
    h, calls = decoder.embed(tokens.ids)
    for layer in layers:
        h = decoder.step(layer, h, calls)
    q = decoder.logits(h, tokens.ids).double().softmax(-1)[:, :-1]
    p = dense.model(input_ids=tokens.ids).logits.double().softmax(-1)[:, :-1]
    top = p.topk(64).indices
    p, q = (torch.cat([one.gather(-1, top), 1 - one.gather(-1, top).sum(-1, keepdim=True)], -1) for one in (p, q))
    return float((p * (p / q).log()).sum(-1).mean())


def naive_trial(
    dense: Decoder, model: Any, kept: list[int], gone: int, tokens: Windows, *, moves: bool
) -> tuple[Decoder, list[int], bool]:
    """(a copy of `model` repaired for lacking `gone` too, the layers left, whether neurons were taken over): only the
    layer before the one that goes is changed, toward the state of the dense model.
    """
    trial, left = Decoder(copy.deepcopy(model)), [one for one in kept if one != gone]
    before = kept[kept.index(gone) - 1]
    stop = next((layer for layer in left if layer > gone), tiny.LAYERS)
    target, below = dict(dense.states(tokens.ids))[stop], left[: left.index(before) + 1]
    if moves and naive_transplant(trial, dense, below, gone, torch.arange(48), tokens, target, RIDGES):
        return trial, left, True
    naive_write(trial, below, target, tokens)
    return trial, left, False


def naive_write(trial: Decoder, below: list[int], target: torch.Tensor, tokens: Windows) -> None:
    """The last of `below` writes toward `target`, in place."""
    write = trial.layer(below[-1]).mlp_write
    a, out = through(trial, below, tokens, write.module)
    change = best_ridge(a, target - out, 1 / target.norm(dim=-1), RIDGES).float()
    trial.layers[below[-1]].get_parameter(write.parameter).add_(write.weight(change))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_search_takes_what_trying_every_layer_takes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a naive search: a copy a trial, repaired in place, its loss measured from the embeddings."""
    moves = family == "llama"
    try_all(monkeypatch)
    monkeypatch.setattr("lowrise.select.refit_trials.neurons_apart", lambda _decoder: moves)
    moved = 0
    decoder, tokens, deciding = make(family), windows(12), windows(4, seed=1)
    choice = choose_by_refit(decoder, tokens, deciding, 3, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    kept, model = without(), copy.deepcopy(decoder.model)
    for round_ in choice.scores["rounds"]:
        losses, divergences, models = {}, {}, {}
        for gone in kept[1:]:
            trial, left, transplanted = naive_trial(decoder, model, kept, gone, both, moves=moves)
            losses[gone], models[gone] = Student(trial, left).loss(deciding), trial.model
            divergences[gone] = divergence(decoder, trial, left, deciding)
            moved += transplanted
        assert round_["losses"] == pytest.approx([losses.get(layer) for layer in range(tiny.LAYERS)], abs=1e-4)
        all_of_them = [divergences.get(layer) for layer in range(tiny.LAYERS)]
        assert round_["divergences"] == pytest.approx(all_of_them, abs=1e-4)
        removed = min(divergences, key=lambda layer: divergences[layer])
        assert round_["removed"] == removed
        kept.remove(removed)
        model = models[removed]
    assert bool(moved) is moves
    assert choice.scores["loss"]["dense"] == pytest.approx(perplexity(decoder, deciding, QUIET)["loss"], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("family", "solved"), [("llama", True), ("gpt2", True), ("llama", False)])
def test_the_search_for_a_span_takes_what_trying_every_span_takes(
    family: str, solved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy a trial; where writes cannot be solved, a trial is a drop."""
    monkeypatch.setattr("lowrise.select.refit_trials.refit_support", lambda _decoder: solved)
    decoder, tokens, deciding = make(family), windows(12), windows(4, seed=1)
    choice = choose_span_by_refit(decoder, tokens, deciding, 2, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    losses: list[float | None] = [None]
    divergences: list[float | None] = [None]
    for start in range(1, tiny.LAYERS - 1):
        trial, left = Decoder(copy.deepcopy(decoder.model)), without(start, start + 1)
        if solved:
            naive_write(trial, list(range(start)), dict(decoder.states(both.ids))[start + 2], both)
        losses.append(Student(trial, left).loss(deciding))
        divergences.append(divergence(decoder, trial, left, deciding))
    assert choice.scores["losses"] == pytest.approx(losses, abs=1e-4)
    assert choice.scores["divergences"] == pytest.approx(divergences, abs=1e-4)
    best = min(range(1, len(divergences)), key=lambda start: divergences[start] or 0.0)
    assert choice.spans == [(best, best + 2)]
    assert choice.scores["loss"]["after"] == choice.scores["losses"][best]


@pytest.mark.parametrize("choose", [choose_by_refit, choose_span_by_refit])
def test_searches_look_at_what_the_model_wrote_before_any_text(choose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mix that holds enough of it nothing else: the scores are those of the written windows alone."""
    monkeypatch.setattr("lowrise.select.refit_search.FIT_TOKENS", 6 * 32)
    monkeypatch.setattr("lowrise.select.refit_search.HELD_OUT_TOKENS", 2 * 32)
    mixed = []
    for rows, seed in ((6, 0), (2, 1)):
        ids = torch.cat([windows(rows, seed).ids, windows(rows, seed + 2).ids])
        mixed.append(Windows(ids, "both", 0, torch.arange(2 * rows) >= rows))
    found = choose(make("llama"), *mixed, 2, 1, QUIET)
    alone = choose(make("llama"), windows(6, seed=2), windows(2, seed=3), 2, 1, QUIET)
    assert (found.spans, found.scores) == (alone.spans, alone.scores)


@torch.no_grad()
def test_behind_a_norm_trials_take_the_step_that_a_repair_takes() -> None:
    decoder, tokens, deciding = make("gemma2"), windows(12), windows(4, seed=1)
    choice = choose_span_by_refit(decoder, tokens, deciding, 2, 1, QUIET)
    both = Windows(torch.cat([tokens.ids, deciding.ids]), "test", 0)
    losses: list[float | None] = [None]
    for start in range(1, tiny.LAYERS - 1):
        trial = Student(Decoder(copy.deepcopy(decoder.model)), without(start, start + 1))
        with ActivationStore() as store:
            layerwise = LayerwisePass(trial, both, len(deciding), store, start - 1, mixed=False)
            for number, _, calls in layerwise.batches():
                layerwise.dense(number, calls)
            refit_write(layerwise, (1e-2, 1e-1, 1.0))
        losses.append(trial.loss(deciding))
    assert choice.scores["bridged"]
    assert choice.scores["losses"] == pytest.approx(losses, abs=1e-4)


def test_the_search_for_a_span_changes_nothing_and_never_takes_the_first_layer() -> None:
    decoder = make("llama")
    before = copy.deepcopy(decoder.model.state_dict())
    choice = choose_span_by_refit(decoder, windows(4), windows(2, seed=1), tiny.LAYERS - 1, 1, QUIET)
    assert choice.spans == [(1, tiny.LAYERS)]
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
