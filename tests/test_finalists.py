"""The last round of refit's search, against trying and repairing everything on copies, on tiny models."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from lowrise.select import refit_search
from lowrise.select.choice import spans_of
from lowrise.select.refit_search import _Gap, choose_by_refit
from lowrise.select.refit_trials import Search
from repairs import repair
from test_search import divergence, naive_trial, naive_write
from tiny import windows, without

Main = Callable[..., tuple[int, str, str]]
QUIET = Reporter(quiet=True)
KNOWN = dict.fromkeys(range(1, tiny.LAYERS), -1.0)  # what each layer adds alone: so little that all are tried


def both(fitted: Windows, deciding: Windows) -> Windows:
    return Windows(torch.cat([fitted.ids, deciding.ids]), "test", 0)


def with_one_gap(monkeypatch: pytest.MonkeyPatch, layers: list[int], divergence: float = 1e3) -> None:
    """However far it is, it is compared."""
    monkeypatch.setattr("lowrise.select.refit_search._one_gap", lambda *_search: _Gap(layers, divergence))
    monkeypatch.setattr("lowrise.select.refit_search.FLATTERS", 1e30)


@torch.no_grad()
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_finalist_is_worth_what_it_is_once_it_is_repaired(
    family: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense model stays as it is; a copy of it, cut and repaired in place on the same tokens, has the same loss."""
    if not known:
        monkeypatch.setattr("lowrise.model.refittable.norms_as_known", lambda _decoder: False)
    with_one_gap(monkeypatch, [2, 3, 5])
    monkeypatch.setattr("lowrise.edit.block_reconstruction.EPOCHS", 2)  # that finalists are given
    decoder, fitted, deciding = Decoder(tiny.model(family)), windows(24), windows(8, seed=1)
    before = copy.deepcopy(decoder.model.state_dict())
    choice = choose_by_refit(decoder, fitted, deciding, 3, 1, QUIET)
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    rounds = sorted(one["removed"] for one in choice.scores["rounds"])
    finalists = choice.scores["finalists"]
    assert [one["spans"] for one in finalists] == [spans_of(rounds), [(2, 4), (5, 6)]]
    for one in finalists:
        student = Student(
            Decoder(copy.deepcopy(decoder.model)), without(*(layer for span in one["spans"] for layer in range(*span)))
        )
        repair(student, both(fitted, deciding), len(deciding), "refit", QUIET)
        assert one["loss"] == pytest.approx(student.loss(deciding), abs=1e-4)
        assert one["divergence"] == pytest.approx(divergence(decoder, student.decoder, student.layers, deciding), 1e-3)
    best = min(finalists, key=lambda one: float(one["divergence"]))
    assert choice.spans == spans_of(choice.scores["layers"]) == best["spans"]
    assert choice.scores["loss"]["after"] == best["loss"]


@torch.no_grad()
@pytest.mark.parametrize("k", [2, 3])
def test_the_one_gap_is_the_best_of_all_spans_or_of_all_shorter_ones_with_a_layer_more(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, fitted, deciding = Decoder(tiny.model("llama")), windows(12), windows(4, seed=1)
    states = dict(decoder.states(both(fitted, deciding).ids))
    best: dict[int, Any] = {}
    for n in (k - 1, k):
        tried = []
        for start in range(1, tiny.LAYERS - n + 1):
            trial, gone = Decoder(copy.deepcopy(decoder.model)), list(range(start, start + n))
            naive_write(trial, list(range(start)), states[start + n], both(fitted, deciding))
            tried.append((divergence(decoder, trial, without(*gone), deciding), gone, trial.model))
        best[n] = min(tried, key=lambda one: one[0])
    _, shorter, model = best[k - 1]
    kept, more = without(*shorter), []
    for layer in kept[1:]:
        trial, left, _ = naive_trial(decoder, model, kept, layer, both(fitted, deciding), moves=True)
        more.append((divergence(decoder, trial, left, deciding), sorted([*shorter, layer])))
    expected = min([best[k][:2], min(more)])[1]
    take_from_the_top(monkeypatch)
    found = choose_by_refit(decoder, fitted, deciding, k, 1, QUIET)
    assert found.scores["finalists"][1]["spans"] == spans_of(expected)


def take_from_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the rounds had taken the layers from the top, so that what has one gap differs from them."""
    rounds = [{"removed": layer, "loss": 9.0, "divergences": [1e-9] * tiny.LAYERS} for layer in (5, 1, 3)]
    monkeypatch.setattr("lowrise.select.refit_search.FLATTERS", 1e30)
    monkeypatch.setattr("lowrise.select.refit_search._one_by_one", lambda _search, _layers, k, *_: (rounds[:k], KNOWN))
    dry_runs = iter([(2.0, 0.5), (2.5, 0.25)])
    monkeypatch.setattr("lowrise.select.refit_search.Search.dry_run", lambda *_: next(dry_runs))


def test_the_lower_divergence_goes_and_not_the_lower_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    with_one_gap(monkeypatch, [2, 3])
    take_from_the_top(monkeypatch)
    choice = choose_by_refit(Decoder(tiny.model("llama")), windows(12), windows(4, seed=1), 2, 1, QUIET)
    assert choice.spans == [(2, 4)]
    assert (choice.scores["layers"], choice.scores["loss"]["after"]) == ([2, 3], 2.5)


def spans_that_miss(monkeypatch: pytest.MonkeyPatch, by_length: dict[int, float], more: dict[int, float]) -> list[Any]:
    """Trials that only say so; which spans were tried."""
    tried = []

    def span(_search: Any, start: int, stop: int) -> Any:
        tried.append((start, stop))
        return SimpleNamespace(loss=1.0, divergence=by_length[stop - start] + start / 100, before=start - 1, changed={})

    def trials(_search: Any, candidates: list[int], _bar: Any, **_how: Any) -> dict[int, Any]:
        return {one: SimpleNamespace(loss=1.0, divergence=more[one]) for one in candidates}

    monkeypatch.setattr("lowrise.select.refit_search.Search.span", span)
    monkeypatch.setattr("lowrise.select.refit_search.Search.trials", trials)
    take_from_the_top(monkeypatch)
    return tried


@pytest.mark.parametrize(("whole", "expected"), [(0.1, [(1, 4)]), (0.3, [(1, 3), (5, 6)])])
def test_a_layer_more_is_taken_only_where_the_whole_span_is_missed_more(
    whole: float, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spans_that_miss(monkeypatch, {2: 0.1, 3: whole}, {1: 0.4, 2: 0.4, 3: 0.3, 4: 0.4, 5: 0.2})
    choice = choose_by_refit(Decoder(tiny.model("llama")), windows(12), windows(4, seed=1), 3, 1, QUIET)
    assert choice.scores["finalists"][1]["spans"] == expected


@torch.no_grad()
@pytest.mark.parametrize("effort", [1, 2])
def test_spans_are_tried_where_their_ends_are_most_alike(effort: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the tokens that decide."""
    decoder, deciding = Decoder(tiny.model("llama")), windows(4, seed=1)
    states = [h.double() for _, h in decoder.states(deciding.ids)]
    expected = []
    for n in (3, 2):
        ends = [(states[start], states[start + n]) for start in range(1, tiny.LAYERS - n + 1)]
        cosines = [float(torch.cosine_similarity(*pair, dim=-1).mean()) for pair in ends]
        starts = sorted(range(len(cosines)), key=lambda start: -cosines[start])[:effort]
        expected += [(start + 1, start + 1 + n) for start in starts]
    monkeypatch.setattr("lowrise.select.refit_search.SHORTLIST", 1)
    tried = spans_that_miss(monkeypatch, {2: 0.1, 3: 0.1}, dict.fromkeys(range(1, tiny.LAYERS), 0.2))
    choose_by_refit(decoder, windows(12), deciding, 3, effort, QUIET)
    assert tried == expected


def test_a_search_that_begins_again_knows_nothing_of_what_it_tried() -> None:
    decoder, fitted, deciding = Decoder(tiny.model("llama")), windows(12), windows(4, seed=1)
    bar: Any = SimpleNamespace(advance=lambda *_note: None)
    found = []
    for gone in (1, None):
        with ActivationStore() as store:
            search = Search(decoder, fitted, deciding, store)
            if gone is not None:
                search.remove([gone], search.trials([gone], bar)[gone])
                search.trials([2, 3], bar)
            search.again()
            search.remove([5], search.span(5, 6))
            found.append({layer: trial.divergence for layer, trial in search.trials([2, 3], bar).items()})
    again, fresh = found
    assert again == pytest.approx(fresh, rel=1e-6)


def test_a_gap_that_is_far_behind_is_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    flatters = refit_search.FLATTERS
    take_from_the_top(monkeypatch)
    monkeypatch.setattr("lowrise.select.refit_search.Search.dry_run", lambda *_: pytest.fail("repaired"))
    with_one_gap(monkeypatch, [2, 3], 1.01 * flatters * 1e-9)
    monkeypatch.setattr("lowrise.select.refit_search.FLATTERS", flatters)
    choice = choose_by_refit(Decoder(tiny.model("llama")), windows(12), windows(4, seed=1), 2, 1, QUIET)
    assert (choice.spans, choice.scores["finalists"]) == ([(1, 2), (5, 6)], [])


@pytest.mark.parametrize(("k", "gap"), [(1, None), (2, "as the rounds")])
def test_where_there_is_but_one_answer_nothing_is_repaired(k: int, gap: str | None, monkeypatch: Any) -> None:
    take_from_the_top(monkeypatch)
    monkeypatch.setattr("lowrise.select.refit_search.Search.dry_run", lambda *_: pytest.fail("repaired"))
    if gap is not None:
        with_one_gap(monkeypatch, [1, 5])
    choice = choose_by_refit(Decoder(tiny.model("llama")), windows(12), windows(4, seed=1), k, 1, QUIET)
    assert choice.scores["finalists"] == []
    assert choice.scores["loss"]["after"] == 9.0
    assert choice.scores["layers"] == [5, 1][:k]


@pytest.mark.parametrize(("k", "gap"), [(1, None), (2, None), (2, [3, 4]), (4, None), (tiny.LAYERS - 1, None)])
def test_bars_end_where_the_search_does(k: int, gap: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    if gap is not None:
        found = refit_search._one_gap
        monkeypatch.setattr(refit_search, "_one_gap", lambda *search: (found(*search), _Gap(gap, 1e3))[1])
        monkeypatch.setattr(refit_search, "FLATTERS", 1e30)

    class Counted(Reporter):
        @contextmanager
        def bar(self, title: str, total: int) -> Any:
            steps = []
            yield SimpleNamespace(advance=lambda *_note: steps.append(1))
            ended.append((title, len(steps), total))

    choose_by_refit(Decoder(tiny.model("llama")), windows(12), windows(4, seed=1), k, 1, Counted(quiet=True))
    assert [title for title, *_ in ended] == ["searching", *(["comparing"] if gap else [])]
    assert all(done == total for _, done, total in ended)


@pytest.mark.parametrize("quiet", [False, True])
def test_plan_and_terminal_tell_what_was_repaired(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [{"removed": layer, "loss": 9.0, "divergences": [1e-9] * tiny.LAYERS} for layer in (4, 1)]
    monkeypatch.setattr("lowrise.select.refit_search._one_by_one", lambda *_: (rounds, KNOWN))
    with_one_gap(monkeypatch, [2, 3])
    asked = ["--remove", "2", "--text", text_file, "--samples", "64", "--length", "32"]
    out = tmp_path / "plan.json"
    status, _, said = main("plan", tiny_folder, *asked, "--out", out, *(["--quiet"] if quiet else []))
    assert status == 0
    plan = json.loads(out.read_text())
    first, second = (one["divergence"] for one in plan["scores"]["finalists"])
    line = f"held-out divergence, repaired: without [1, 2), [4, 5) {first:.4f}, without [2, 4) {second:.4f}\n"
    assert (line in said) != quiet
    taken = [(1, 2), (4, 5)] if first <= second else [(2, 4)]
    assert [(edit["start"], edit["stop"]) for edit in plan["edits"]] == taken
