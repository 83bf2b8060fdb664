"""The peers' criteria: what each chooses against naive references and closed forms, on tiny models."""

from __future__ import annotations

import copy
import errno
import functools
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from lowrise.calibration import Windows
from lowrise.errors import OutputError, RecipeError
from lowrise.measure.perplexity import perplexity
from lowrise.model import batching
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.angular import AngularDistance
from lowrise.observe.loss import losses_by_piece, next_token_loss
from lowrise.observe.massive import MassiveActivations
from lowrise.observe.similarity import SpanSimilarity
from lowrise.observe.stream import Observation
from lowrise.progress import Reporter
from lowrise.select.angular import choose_by_angle
from lowrise.select.block_influence import choose_by_influence
from lowrise.select.choice import Choice, lowest, spans_of
from lowrise.select.greedy import choose_greedily
from lowrise.select.random import choose_at_random
from lowrise.select.tail import choose_tail
from lowrise.select.taylor import choose_by_taylor, layers_that_may_go

QUIET = Reporter(quiet=True)
SOME = ["llama", "qwen2", "gemma2", "gpt2", "opt"]


@functools.cache
def original(family: str, **changes: Any) -> Any:
    return tiny.model(family, **changes)


def make(family: str, **changes: Any) -> Decoder:
    return Decoder(copy.deepcopy(original(family, **changes)))


def windows(rows: int = 3, tokens: int = 24) -> Windows:
    return Windows(tiny.ids(rows, tokens), "test", 0)


class _Cosines(SpanSimilarity):
    """Cosines of neighbours given by hand."""

    def __init__(self, values: list[float]) -> None:
        self._values = torch.tensor(values, dtype=torch.float64)

    def cosine(self, n: int) -> Tensor:
        assert n == 1
        return self._values


class _Angles(AngularDistance):
    """Distances given by hand."""

    def __init__(self, values: list[float]) -> None:
        self._values = torch.tensor(values, dtype=torch.float64)

    def distance(self, n: int) -> Tensor:  # noqa: ARG002
        return self._values


def seen(cosines: list[float] | None = None, angles: list[float] | None = None, writer: int = 3) -> Observation:
    """Six layers; layer `writer` writes one massive activation."""
    massive = MassiveActivations(6)
    for layer in range(7):
        norms = torch.ones(2, 9)
        norms[0, 0] = 300.0 if layer > writer else 1.0
        massive.add(layer, norms)
    return Observation(_Cosines(cosines or []), massive, _Angles(angles or []))


class TestChoice:
    def test_adjacent_layers_share_a_span(self) -> None:
        assert spans_of([7, 2, 3, 9, 8]) == [(2, 4), (7, 10)]
        assert spans_of([]) == []

    def test_the_lowest_come_first_the_lower_index_of_equal_ones_and_a_failed_measure_last(self) -> None:
        values = [2.0, math.nan, 1.0, 1.0, 0.0]
        assert lowest(values, 3, range(5)) == [4, 2, 3]
        assert lowest(values, 2, [0, 1]) == [0, 1]


class TestBlockInfluence:
    def test_the_lowest_go_wherever_they_stand(self) -> None:
        """BI = 1 - cosine: 0.5, 0.1, 0.4, 0.05, 0.2, 0.3."""
        choice = choose_by_influence(seen([0.5, 0.9, 0.6, 0.95, 0.8, 0.7]), 3, avoid_massive=False)
        assert choice.spans == [(1, 2), (3, 5)]
        assert choice.scores["layers"] == [3, 1, 4]
        assert choice.scores["influence"] == pytest.approx([0.5, 0.1, 0.4, 0.05, 0.2, 0.3])
        assert choice.scores["massive_activations"]["writers"] == [3]

    def test_avoid_massive_keeps_the_writer(self) -> None:
        observation = seen([0.5, 0.9, 0.6, 0.95, 0.8, 0.7])
        assert choose_by_influence(observation, 3, avoid_massive=True).spans == [(1, 2), (4, 6)]
        assert choose_by_influence(observation, 5, avoid_massive=True).spans == [(0, 3), (4, 6)]

    def test_more_than_are_no_writers_is_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"--avoid-massive: expected 6 .*, found 5 beside the writers \[3\]"):
            choose_by_influence(seen([0.5, 0.9, 0.6, 0.95, 0.8, 0.7]), 6, avoid_massive=True)


class TestAngular:
    def test_the_least_apart_go(self) -> None:
        choice = choose_by_angle(seen(angles=[0.4, 0.3, 0.1, 0.2, 0.25]), 2, avoid_massive=False)
        assert choice.spans == [(2, 4)]
        assert choice.scores["angular_distance"] == [0.4, 0.3, 0.1, 0.2, 0.25]

    def test_avoid_massive_takes_the_best_span_without_a_writer(self) -> None:
        observation = seen(angles=[0.4, 0.3, 0.1, 0.2, 0.25])
        assert choose_by_angle(observation, 2, avoid_massive=True).spans == [(4, 6)]

    def test_every_span_with_a_writer_is_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"--avoid-massive: .* found writers \[3\] in every span"):
            choose_by_angle(seen(angles=[0.2, 0.1]), 5, avoid_massive=True)


class TestLoss:
    @pytest.mark.parametrize("family", tiny.FAMILIES)
    @pytest.mark.parametrize("logits", [1, 7 * tiny.VOCABULARY, 2**23])
    @torch.no_grad()
    def test_in_pieces_it_is_that_of_all_logits(
        self, family: str, logits: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One token of the batch a piece, three, and all at once."""
        monkeypatch.setattr(batching, "_CPU_PIECE", logits)
        decoder, ids = make(family), tiny.ids()
        *_, (_, last) = decoder.states(ids)
        whole = decoder.model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(whole, ids[:, 1:].flatten(), reduction="sum")
        assert next_token_loss(decoder, last, ids) == pytest.approx(float(expected), rel=1e-6)
        count = {1: 23, 7 * tiny.VOCABULARY: 8, 2**23: 1}[logits]
        assert len(list(losses_by_piece(decoder, last, ids))) == count


def naive_greedy(family: str, data: Windows, k: int) -> tuple[list[dict[str, Any]], Decoder]:
    """SLEB as it is written down: for every trial a copy with the layer really dropped, run in full."""
    current = make(family)
    names = list(range(len(current)))
    rounds = []
    for _ in range(k):
        losses: list[float | None] = [None] * tiny.LAYERS
        models = []
        for place, name in enumerate(names):
            trial = Decoder(copy.deepcopy(current.model))
            trial.drop(place, place + 1)
            losses[name] = perplexity(trial, data, QUIET)["loss"]
            models.append(trial)
        place = min(range(len(names)), key=lambda place: losses[names[place]])
        rounds.append({"removed": names.pop(place), "losses": losses})
        current = models[place]
    return rounds, current


class TestGreedy:
    @pytest.mark.parametrize("family", SOME)
    def test_it_decides_as_the_naive_version_does(self, family: str) -> None:
        data = windows()
        expected, model = naive_greedy(family, data, 4)
        decoder = make(family)
        choice = choose_greedily(decoder, data, 4, QUIET)
        assert choice.scores["layers"] == [one["removed"] for one in expected]
        for ours, theirs in zip(choice.scores["rounds"], expected, strict=True):
            for mine, other in zip(ours["losses"], theirs["losses"], strict=True):
                assert (mine is None) == (other is None)
                assert mine is None or mine == pytest.approx(other, abs=1e-5)
        assert choice.scores["loss"]["dense"] == pytest.approx(perplexity(make(family), data, QUIET)["loss"], abs=1e-5)
        for start, stop in reversed(choice.spans):
            decoder.drop(start, stop)
        assert choice.scores["loss"]["after"] == pytest.approx(perplexity(decoder, data, QUIET)["loss"], abs=1e-5)
        assert len(decoder) == len(model) == 2

    @pytest.mark.parametrize("family", tiny.FAMILIES)
    def test_a_trial_is_the_really_dropped_model(self, family: str) -> None:
        data = windows(rows=2)
        (first,) = choose_greedily(make(family), data, 1, QUIET).scores["rounds"]
        for layer, loss in enumerate(first["losses"]):
            dropped = make(family)
            dropped.drop(layer, layer + 1)
            assert loss == pytest.approx(perplexity(dropped, data, QUIET)["loss"], abs=1e-5)

    @pytest.mark.parametrize("family", ["llama", "opt"])
    def test_no_trial_runs_what_was_run_before(self, family: str) -> None:
        """First round: layer l runs for the stored inputs and in the trial of every layer below it, 1 + l times. With m
        gone, layers below m run no more; one above runs for the inputs (the last need not) and in l - 1 trials."""
        decoder, data = make(family), Windows(tiny.ids(3, 100), "test", 0)
        calls = [0] * tiny.LAYERS
        for index, layer in enumerate(decoder.layers):
            layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
        (gone,) = choose_greedily(decoder, data, 1, QUIET).scores["layers"]
        assert calls == [1 + layer for layer in range(tiny.LAYERS)]
        assert 0 < gone < tiny.LAYERS - 1, "the ends show less: choose another seed"
        calls[:] = [0] * tiny.LAYERS
        choose_greedily(decoder, data, 2, QUIET)
        second = [0 if layer <= gone else layer - 1 + (layer < tiny.LAYERS - 1) for layer in range(tiny.LAYERS)]
        assert calls == [1 + layer + more for layer, more in enumerate(second)]

    def test_several_batches_add_up(self) -> None:
        """Eleven windows of 100 tokens are two batches, ten and one; the search ends where the dropped model does."""
        decoder, data = make("llama"), Windows(tiny.ids(11, 100), "test", 0)
        choice = choose_greedily(decoder, data, 4, QUIET)
        for start, stop in reversed(choice.spans):
            decoder.drop(start, stop)
        assert choice.scores["loss"]["after"] == pytest.approx(perplexity(decoder, data, QUIET)["loss"], abs=1e-5)

    def test_no_room_on_disk_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.BytesIO):
            def write(self, *_: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
        with pytest.raises(OutputError, match="room for the states of a search, found No space left on device"):
            choose_greedily(make("llama"), windows(), 1, QUIET)

    def test_an_activation_store_gives_back_what_was_put(self) -> None:
        states = [torch.randn(2, 3, 4).to(torch.bfloat16), torch.randn(1, 3, 4), torch.randn(1, 3, 4)]
        with ActivationStore() as store:
            store.put(5, states[0])
            store.put("a", states[1])
            assert torch.equal(store.get(5), states[0])
            store.put("a", states[2])
            assert torch.equal(store.get("a"), states[2])
            assert torch.equal(store.get(5), states[0])

    def test_nothing_of_the_model_changes(self) -> None:
        decoder = make("llama")
        before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
        choose_greedily(decoder, windows(), 2, QUIET)
        assert len(decoder) == tiny.LAYERS
        assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


class TestTaylor:
    @pytest.mark.parametrize("family", SOME)
    def test_it_is_the_weight_times_the_gradient_of_one_full_pass(self, family: str) -> None:
        """Eleven windows in two batches against one backward pass over all of them, by the whole model."""
        decoder, data = make(family, num_hidden_layers=9), Windows(tiny.ids(11, 100), "test", 0)
        choice = choose_by_taylor(decoder, data, 2, QUIET)
        logits = decoder.model(input_ids=data.ids, use_cache=False).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), data.ids[:, 1:].flatten()).backward()
        expected = [
            sum(float((w.detach() * w.grad).abs().sum()) for w in layer.parameters() if w.grad is not None)
            for layer in decoder.layers
        ]
        assert choice.scores["importance"] == pytest.approx(expected, rel=1e-4)
        assert choice.scores["layers"] == sorted([4, 5, 6], key=lambda layer: expected[layer])[:2]

    def test_the_first_four_and_last_two_stay(self) -> None:
        decoder = make("llama", num_hidden_layers=9)
        assert choose_by_taylor(decoder, windows(), 3, QUIET).spans == [(4, 7)]

    def test_it_leaves_no_gradient_and_no_change(self) -> None:
        decoder = make("llama", num_hidden_layers=9)
        before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
        choose_by_taylor(decoder, windows(), 1, QUIET)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in decoder.model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())

    def test_more_than_may_go_is_refused(self) -> None:
        assert list(layers_that_may_go(30, 24)) == list(range(4, 28))
        with pytest.raises(RecipeError, match=r"--remove: expected at most 24 layers .*, found 25; remove fewer"):
            layers_that_may_go(30, 25)
        with pytest.raises(RecipeError, match="at most 0 layers"):
            layers_that_may_go(5, 1)


def test_tail_takes_the_layers_before_the_last() -> None:
    assert choose_tail(30, 8).spans == [(21, 29)]
    assert choose_tail(6, 5).spans == [(0, 5)]


class TestRandom:
    @staticmethod
    def drawn(choice: Choice) -> list[int]:
        return [layer for start, stop in choice.spans for layer in range(start, stop)]

    def test_the_seed_decides(self) -> None:
        assert choose_at_random(30, 8, 3) == choose_at_random(30, 8, 3)
        assert choose_at_random(30, 8, 3).spans != choose_at_random(30, 8, 4).spans

    def test_every_layer_is_as_likely_as_another(self) -> None:
        """600 draws of 2 of 6: 200 ± 11.5 each; five standard deviations are 58."""
        counts = [0] * 6
        for seed in range(600):
            layers = self.drawn(choose_at_random(6, 2, seed))
            assert len(layers) == 2
            for layer in layers:
                counts[layer] += 1
        assert all(abs(count - 200) < 58 for count in counts)
