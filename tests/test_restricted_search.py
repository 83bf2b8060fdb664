"""Criteria where not every cut can be expressed: their choices against all allowed cuts, and what is refused."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.pipeline.opening import check_wishes
from lowrise.pipeline.restricting import allowed_numbers, in_words
from lowrise.pipeline.sizing import fewest_layers, net_layers
from lowrise.plan import Drop, Merge, Replace, read_plan
from lowrise.planned import true_to_edits
from lowrise.progress import Reporter
from lowrise.provenance import RestrictionRecord
from lowrise.recipe import build_recipe
from lowrise.restriction import AllowedCuts, Restriction
from lowrise.select.angular import choose_by_angle
from lowrise.select.block_influence import choose_by_influence
from lowrise.select.cosine import choose_span
from lowrise.select.greedy import choose_greedily
from lowrise.select.lorp import choose_by_locality
from lowrise.select.merge_search import merge_search
from lowrise.select.refit_search import choose_by_refit, choose_span_by_refit
from lowrise.select.taylor import choose_by_taylor
from lowrise.settings import MergeSearch
from refusals import Main, assert_one_line
from test_criteria import seen
from test_lorp import blocks, known
from test_merge_search import sentences
from test_observe import fixed
from tiny import windows

QUIET = Reporter(quiet=True)


def alternating(layers: int = tiny.LAYERS) -> Restriction:
    """Layers of two kinds in turn, as their number says: what goes goes in pairs, or one from the end."""
    kinds = tuple("AB"[layer % 2] for layer in range(layers))
    return Restriction("a made-up setting reads every second layer", kinds, lambda depth: [kinds[:depth]])


def in_pairs(layers: int = tiny.LAYERS) -> Restriction:
    """As `alternating`, and an even number of layers must be left."""
    whole = alternating(layers)
    return Restriction(whole.reason, whole.kinds, lambda depth: [whole.kinds[:depth]] if depth % 2 == 0 else [])


def expressed(kinds: str, *patterns: str) -> AllowedCuts:
    """Those that leave one of the patterns, a letter a layer."""
    reason = f"only {' or '.join(patterns)} of {kinds}"
    by_depth = {depth: [tuple(one) for one in patterns if len(one) == depth] for depth in range(len(kinds) + 1)}
    return AllowedCuts(len(kinds), [Restriction(reason, tuple(kinds), by_depth.__getitem__)])


PAIRS = AllowedCuts(tiny.LAYERS, [in_pairs()])


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is."""
    monkeypatch.setattr(Decoder, "restrictions", property(lambda decoder: [in_pairs(len(decoder))]))


@functools.cache
def _model(**changes: Any) -> Any:
    return tiny.model("llama", **changes)


def make(**changes: Any) -> Decoder:
    return Decoder(copy.deepcopy(_model(**changes)))


def gone(spans: Sequence[tuple[int, int]]) -> list[int]:
    return [layer for start, stop in spans for layer in range(start, stop)]


def allowed(layers: int, n: int, may_go: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """All allowed cuts of n layers, by trying every one."""
    whole = in_pairs(layers)
    every = itertools.combinations(range(layers) if may_go is None else may_go, n)
    return [cut for cut in every if whole.allows([layer for layer in range(layers) if layer not in cut])]


class TestRankings:
    def test_the_layers_of_the_least_total_are_taken(self) -> None:
        draw = random.Random(0)
        for _ in range(20):
            influence = [draw.random() for _ in range(6)]
            choice = choose_by_influence(seen([1 - value for value in influence]), 2, False, PAIRS)
            best = min(allowed(6, 2), key=lambda cut: sum(influence[layer] for layer in cut))
            assert gone(choice.spans) == list(best)
            assert choice.cost is not None
            assert choice.cost.chosen == pytest.approx(sum(influence[layer] for layer in best))
            assert choice.cost.best == pytest.approx(sum(sorted(influence)[:2]))

    def test_writers_of_massive_activations_stay_too(self) -> None:
        """Layer 3 writes; the two of least influence are 2 and 3."""
        influence = [0.9, 0.8, 0.1, 0.1, 0.7, 0.4]
        choice = choose_by_influence(seen([1 - value for value in influence]), 2, True, PAIRS)
        may_go = [0, 1, 2, 4, 5]
        best = min(allowed(6, 2, may_go), key=lambda cut: sum(influence[layer] for layer in cut))
        assert gone(choice.spans) == list(best)

    def test_no_allowed_cut_among_what_may_go(self) -> None:
        with pytest.raises(RecipeError, match="only AAAAA of AAABAA"):
            choose_by_influence(seen([0.5] * 6), 1, True, expressed("AAABAA", "AAAAA"))

    def test_taylor(self) -> None:
        decoder = make(num_hidden_layers=12)
        choice = choose_by_taylor(decoder, windows(2), 2, QUIET, AllowedCuts(12, [in_pairs(12)]))
        importance = choice.scores["importance"]
        best = min(allowed(12, 2, range(4, 10)), key=lambda cut: sum(importance[layer] for layer in cut))
        assert gone(choice.spans) == list(best)
        assert choice.cost is not None
        assert choice.cost.spans != choice.spans or choice.cost.chosen == choice.cost.best


class TestSpans:
    def test_of_the_least_angle(self) -> None:
        cuts = expressed("AAABAA", "AAAB")
        choice = choose_by_angle(seen(angles=[0.4, 0.3, 0.1, 0.2, 0.35]), 2, False, cuts)
        assert choice.spans == [(4, 6)]
        assert choice.cost is not None
        assert (choice.cost.chosen, choice.cost.best, choice.cost.spans) == (0.35, 0.1, [(2, 4)])

    def test_of_the_highest_cosine(self) -> None:
        choice = choose_span(fixed([0.1, 0.2, 0.9, 0.3, 0.4]), 2, False, PAIRS)
        assert (choice.start, choice.published) == (2, 2)
        odd = expressed("AAABBB", "AAAB")
        choice = choose_span(fixed([0.1, 0.2, 0.9, 0.3, 0.4]), 2, False, odd)
        assert (choice.start, choice.published, choice.without_writers) == (4, 2, 4)
        assert choice.cost is not None
        assert (choice.cost.chosen, choice.cost.best) == (0.4, 0.9)

    def test_of_which_the_first_layer_stays(self) -> None:
        """A layer is trained in the place of three: two are gone, from the second of the span on."""
        cuts = expressed("AABBBB", "AAB", "AABB")
        for left, start in ((1, 1), (0, 2)):
            assert choose_span(fixed([0.1, 0.9, 0.3, 0.2]), 3, False, cuts, left).start == start


class TestSearches:
    """Each round tries all layers from which an allowed cut can be reached, and those alone."""

    def test_greedy(self) -> None:
        choice = choose_greedily(make(), windows(2), 2, QUIET, None, PAIRS)
        first, second = choice.scores["rounds"]
        tried = [[n for n, loss in enumerate(one["losses"]) if loss is not None] for one in (first, second)]
        assert tried == [PAIRS.removable(2), PAIRS.removable(2, [first["removed"]])]
        assert tuple(gone(choice.spans)) in allowed(6, 2)
        for one in (first, second):
            measured = [loss for loss in one["losses"] if loss is not None]
            assert one["loss"] == min(measured)
        free = choose_greedily(make(), windows(2), 1, QUIET).scores["rounds"][0]
        same = [(a, b) for a, b in zip(free["losses"], first["losses"], strict=True) if b is not None]
        assert all(a == b for a, b in same)

    def test_refit(self) -> None:
        choice = choose_by_refit(make(), windows(4), windows(2, seed=1), 2, 1, QUIET, None, PAIRS)
        for spans in [choice.spans, *(one["spans"] for one in choice.scores["finalists"])]:
            assert tuple(sorted(gone(spans))) in allowed(6, 2, range(1, 6))
        assert 0 not in gone(choice.spans)

    def test_refit_where_no_span_can_go(self) -> None:
        """Of layers 1, 3 and 5 two must go: never neighbours, so that the rounds alone decide."""
        odd = expressed("ABABAB", "ABAA", "AABA", "AAAB")
        choice = choose_by_refit(make(), windows(4), windows(2, seed=1), 2, 1, QUIET, None, odd)
        assert set(gone(choice.spans)) < {1, 3, 5}

    def test_refit_span(self) -> None:
        cuts = expressed("AAABAA", "AAAB")
        choice = choose_span_by_refit(make(), windows(4), windows(2, seed=1), 2, 1, QUIET, None, cuts)
        assert choice.spans == [(4, 6)]
        tried = [n for n, value in enumerate(choice.scores["divergences"]) if value is not None]
        assert tried == [4]
        assert len(choice.scores["losses"]) == len(choice.scores["divergences"]) == 5

    def test_lorp(self) -> None:
        cosines = blocks([5, 3], 0.9, 0.1)
        cuts = AllowedCuts(8, [in_pairs(8)])
        choice = choose_by_locality(known(cosines), 4, cuts)
        assert tuple(sorted(choice.scores["layers"])) in allowed(8, 4, range(1, 7))

    @pytest.mark.parametrize("combine", [2, 3, 4])
    def test_merges_of_a_given_number(self, combine: int) -> None:
        settings = MergeSearch(combine=combine, low=0)
        found = merge_search(make(), sentences(), settings, 2, QUIET, None, PAIRS)
        left = {layer for edit in found.edits for layer in range(edit.start + 1, edit.stop)}
        assert tuple(sorted(left)) in allowed(6, 2)

    def test_merges_above_a_threshold(self) -> None:
        """Of three layers each leaves an allowed result, of two none does."""
        for combine, merged in ((2, False), (3, True)):
            settings = MergeSearch(combine=combine, low=0, threshold=-0.99)
            found = merge_search(make(), sentences(), settings, None, QUIET, None, PAIRS)
            assert bool(found.edits) == merged
            left = {layer for edit in found.edits for layer in range(edit.start + 1, edit.stop)}
            assert in_pairs().allows([layer for layer in range(6) if layer not in left])


@pytest.mark.usefixtures("restricted")
class TestNumbers:
    """What is refused before anything is computed, and which number a size comes to."""

    @pytest.mark.parametrize(
        ("preset", "numbers"),
        [
            ("block-influence", [2, 4]),
            ("angular", [2, 4]),
            ("streamline", [2, 4]),
            ("refit", [2, 4]),
            ("lorp", [2, 4]),
            ("tail", [2, 4]),
        ],
    )
    def test_that_can_go(self, preset: str, numbers: list[int]) -> None:
        recipe, decoder = build_recipe({"preset": preset}), make()
        assert list(allowed_numbers(recipe, decoder)) == numbers
        for net in {1, 2, 3, 4, 5} - {*numbers}:
            with pytest.raises(RecipeError):
                check_wishes(recipe, decoder, net)
        for net in numbers:
            check_wishes(recipe, decoder, net)

    def test_are_named_with_the_reason(self) -> None:
        with pytest.raises(RecipeError, match=r"2 or 4 layers to go, so that 2 or 4 are left: a made-up .*, found 3"):
            check_wishes(build_recipe({"preset": "block-influence"}), make(), 3)

    def test_layers_by_hand(self) -> None:
        with pytest.raises(RecipeError, match=r"--layers: .*made-up.* found \[1, 2\), \[3, 4\) to go; nearest are 0,1"):
            check_wishes(build_recipe({"layers": "1,3"}), make(), None)
        check_wishes(build_recipe({"layers": "1,2"}), make(), None)

    def test_drawn_at_random(self) -> None:
        seeds: dict[bool, list[int]] = {True: [], False: []}
        for seed in range(12):
            try:
                check_wishes(build_recipe({"preset": "random", "seed": seed}), make(), 2)
            except RecipeError as error:
                seeds[False].append(seed)
                near = int(error.remedy.split()[1])
                check_wishes(build_recipe({"preset": "random", "seed": near}), make(), 2)
            else:
                seeds[True].append(seed)
        assert all(seeds.values())

    def test_the_tail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """[L-1-n, L-1): one layer leaves its place to one of the other kind."""
        monkeypatch.setattr(Decoder, "restrictions", property(lambda decoder: [alternating(len(decoder))]))
        assert list(allowed_numbers(build_recipe({"preset": "tail"}), make())) == [2, 4]
        with pytest.raises(RecipeError, match=r"found \[2, 5\) to go; take 2 or 4 from the tail"):
            check_wishes(build_recipe({"preset": "tail"}), make(), 3)

    def test_of_a_size_to_be_kept(self) -> None:
        decoder = make()
        opened: Any = type("Opened", (), {"decoder": decoder})()
        each, rest = (sum(p.numel() for p in decoder.layers[0].parameters()), decoder.parameters())
        for n, expected in ((1, 2), (2, 2), (3, 4), (4, 4)):
            recipe = build_recipe({"preset": "block-influence", "keep_parameters": str(rest - n * each)})
            assert net_layers(recipe, opened, QUIET) == expected
        with pytest.raises(RecipeError, match="with 2 layers left"):
            net_layers(build_recipe({"preset": "refit", "keep_parameters": str(rest - 5 * each)}), opened, QUIET)

    def test_of_a_time_to_be_kept(self) -> None:
        recipe = build_recipe({"preset": "refit", "keep_latency": 0.9})
        assert fewest_layers(recipe, make()) == 2
        with pytest.raises(RecipeError, match="with 2 layers left"):
            fewest_layers(build_recipe({"preset": "refit", "keep_latency": 0.2}), make())


def test_numbers_in_words() -> None:
    assert in_words([4]) == "4"
    assert in_words([1, 2]) == "1 or 2"
    assert in_words([1, 2, 3, 6, 7, 9]) == "1-3, 6, 7 or 9"


class TestCommands:
    @pytest.fixture
    def plan(self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> Callable[..., Any]:
        def run(*options: object) -> tuple[int, str, str, Path]:
            out = tmp_path / "plan.json"
            given = ["--preset", "block-influence", *options, "--length", 32, "--samples", 4, "--device", "cpu"]
            return *main("plan", tiny_folder, "--text", text_file, "--out", out, *given), out

        return run

    @pytest.mark.usefixtures("restricted")
    def test_plan_and_card_say_what_restricted_it_and_what_that_cost(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        given = ["--text", text_file, "--preset", "block-influence", "--remove", 2, "--length", 32, "--samples", 4]
        status, _, err = main("run", tiny_folder, "--out", tmp_path / "cut", *given, "--device", "cpu")
        assert status == 0, err
        file = tmp_path / "cut" / "lowrise" / "plan.json"
        record, made = json.loads(file.read_text())["restriction"], read_plan(file)
        assert made.restriction is not None
        assert record["reasons"] == [in_pairs().reason]
        assert record["score"] == "total block influence"
        assert record["chosen"] >= record["unrestricted"]
        card = (tmp_path / "cut" / "README.md").read_text()
        for sentence in made.restriction.sentences():
            assert " ".join(sentence.split()) in " ".join(err.split())
            assert sentence[1:] in card.replace("\\", "")
        fewer = made.model_copy(update={"edits": [Drop(start=0, stop=1)]})
        assert true_to_edits(fewer).restriction == RestrictionRecord(reasons=record["reasons"])
        made.edits[:] = [Drop(start=0, stop=1), Drop(start=2, stop=3)]
        file.write_text(made.to_json())
        refused = main("apply", tiny_folder, file, "--text", text_file, "--out", tmp_path / "out", "--quiet")
        assert_one_line(*refused, ("edits whose result can be expressed", in_pairs().reason))

    @pytest.mark.usefixtures("restricted")
    def test_a_number_that_cannot_go(self, plan: Callable[..., Any]) -> None:
        status, out, err, file = plan("--remove", 3, "--quiet")
        assert_one_line(status, out, err, ("--remove", "2 or 4 layers to go", in_pairs().reason))
        assert not file.exists()

    def test_without_restrictions_a_plan_says_nothing_of_them(self, plan: Callable[..., Any]) -> None:
        status, _, err, out = plan("--remove", 2)
        assert status == 0, err
        assert "restrict" not in out.read_text() + err


def test_what_stands_after_edits() -> None:
    from lowrise.edit.student import layers_left

    edits = [
        Drop(start=1, stop=2),
        Merge(start=3, stop=5),
        Replace(start=6, stop=8, network="layer"),
        Replace(start=9, stop=11, network="ffn"),
    ]
    assert layers_left(12, edits) == [0, 2, 3, 5, 6, 8, 11]


def test_engines_that_are_named_restrict_too() -> None:
    """llama.cpp takes every sixth layer of Gemma-3 to see far; of six, that one must go."""
    decoder = Decoder(tiny.model("gemma3_text", num_hidden_layers=8))
    decoder.model.config.architectures = ["Gemma3ForCausalLM"]
    recipe = build_recipe({"layers": "3", "for": "llama.cpp"})
    with pytest.raises(RecipeError, match=r"--layers.*llama\.cpp"):
        check_wishes(recipe, decoder, None)
    check_wishes(build_recipe({"layers": "6", "for": "llama.cpp"}), decoder, None)
    check_wishes(build_recipe({"layers": "3"}), decoder, None)
