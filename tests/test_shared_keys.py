"""Layers that take keys and values of others are run by themselves as in the model, and refit and merged as any are."""

from __future__ import annotations

import copy

import pytest
import torch

import mixtures
import tiny
from lowrise.calibration.sentences import Sentences
from lowrise.edit.block_reconstruction import reconstruct_block
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.lending import leading
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from lowrise.select.refit_trials import Search
from lowrise.select.stack import Stack
from lowrise.select.trials import Trials
from lowrise.settings import MergeSearch
from repairs import repair
from shared_keys import GONE, KINDS, decoder_of, loss, states
from tiny import windows

HELD_OUT = 4
QUIET = Reporter(quiet=True)
KEPT = [layer for layer in range(8) if layer not in GONE]


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return decoder_of(request.param)


@torch.no_grad()
@pytest.mark.parametrize("start", [1, 4])  # below the layers that lend, and at the upper one
def test_a_layerwise_pass_gives_the_states_of_the_whole_models(decoder: Decoder, start: int) -> None:
    gone = [layer for layer in GONE if layer > start]
    student = Student(decoder, [layer for layer in range(8) if layer not in gone])
    whole, cut = (states(decoder, windows().ids, without) for without in ((), gone))
    with ActivationStore() as store:
        layerwise = LayerwisePass(student, windows(), HELD_OUT, store, start, mixed=False)
        rows = torch.cat([torch.arange(16).split([12, 4])[held] for held in (False, True)])
        ids = [ids for ids, _ in layerwise._batches]
        assert torch.equal(torch.cat(ids), windows().ids[rows])
        while True:
            entering = {
                name: torch.cat([store.get((name, number)) for number in range(len(ids))])
                for name in ("student", "dense")
            }
            assert torch.allclose(entering["dense"], whole[layerwise.layer], atol=1e-5)
            assert torch.allclose(entering["student"], cut[layerwise.layer], atol=1e-5)
            if layerwise.layer == len(decoder):
                break
            layerwise.pass_on()


@torch.no_grad()
def test_pieces_of_a_batch_are_given_what_was_lent_to_their_rows(decoder: Decoder) -> None:
    with ActivationStore() as store:
        layerwise = LayerwisePass(Student(decoder, KEPT), windows(), HELD_OUT, store, 6, mixed=False)
        whole = [layerwise.run(number, calls)() for number, _, calls in layerwise.batches()]
        for number, expected in enumerate(whole):
            pieces = [layerwise.step(h, calls) for h, _, calls in layerwise.pieces(number, 64)]
            assert len(pieces) > 1
            assert torch.allclose(torch.cat(pieces), expected, atol=1e-5)


@torch.no_grad()
def test_trials_of_layers_miss_what_the_model_without_them_misses(decoder: Decoder) -> None:
    """Where nothing of what layers write is solved a trial is a drop; two rounds, in an order that jumps."""
    deciding = windows(4, seed=1)
    with ActivationStore() as store:
        search = Search(decoder, windows(6), deciding, store)
        search.writes = False
        assert search.dense_loss == pytest.approx(loss(decoder, deciding.ids), abs=1e-4)
        for gone, others in (((), (7, 2, 6, 1, 5)), ((2,), (6, 1, 7, 5))):
            trials = search.trials([*others], None)
            for layer in others:
                assert trials[layer].loss == pytest.approx(loss(decoder, deciding.ids, {*gone, layer}), abs=1e-4)
            if not gone:
                search.remove([2], trials[2])
        assert search.span(1, 3).loss == pytest.approx(loss(decoder, deciding.ids, {1, 2}), abs=1e-4)


@torch.no_grad()
def test_greedy_trials_find_the_loss_of_the_model_without_them(decoder: Decoder) -> None:
    tokens = windows(4)
    with ActivationStore() as store:
        trials, gone = Trials(decoder, tokens, store), set[int]()
        with QUIET.bar("", 1) as bar:
            for removed in (5, 1, 6):
                found = trials.losses(bar, "", [layer for layer in trials.layers if layer not in (0, 3, 4)])
                for layer, value in found.items():
                    assert value == pytest.approx(loss(decoder, tokens.ids, {*gone, layer}), abs=1e-4)
                trials.remove(removed)
                gone.add(removed)


@torch.no_grad()
def test_merges_are_tried_as_the_merged_model_runs(decoder: Decoder) -> None:
    """One among layers that are below all that lend, then one among those that take, on top of it."""
    texts = Sentences(tiny.ids(3), torch.ones(3, 24, dtype=torch.bool), "made up", 0, 64)
    stack, naive = Stack(decoder, texts, MergeSearch(rule="mean")), Decoder(copy.deepcopy(decoder.model))
    gone = set[int]()
    for at, first in ((5, 5), (1, 1)):
        assert stack.same_group(at, 2)
        trial = stack.attempt(at, 2)
        one, other = naive.layers[first], naive.layers[first + 1]
        for name, value in one.named_parameters():
            value.copy_((value + other.get_parameter(name)) / 2)
        gone.add(first + 1)
        assert trial.final is not None
        assert torch.allclose(trial.final, states(naive, texts.ids, gone)[8], atol=1e-5)
        stack.accept(trial)
    assert not stack.same_group(2, 2)  # a layer that lends is of another kind


def test_refit_brings_held_out_tokens_nearer_and_leaves_what_is_lent(decoder: Decoder) -> None:
    whole = copy.deepcopy(decoder)
    kept = [layer for layer in range(8) if layer not in (2, 5)]
    fits = repair(Student(decoder, kept), windows(32), HELD_OUT, "refit", QUIET)
    assert [fit.layer for fit in fits] == [1, 3, 4, 6, 7]
    errors = [(fit.before, fit.after) for fit in fits]
    assert all(after <= before for before, after in errors)  # type: ignore[operator]
    before_gaps = [fit for fit in fits if fit.stop != fit.layer + 1]
    assert all(fit.after < fit.before for fit in before_gaps)  # type: ignore[operator]
    tokens = windows(32).ids[-HELD_OUT:]
    with torch.no_grad():
        aim = states(whole, tokens)[8].flatten(2)
        far = [(states(one, tokens, (2, 5))[8].flatten(2) - aim).norm() for one in (whole, decoder)]
    assert far[1] < far[0]


def test_what_layers_write_is_solved_too_where_it_is_known() -> None:
    """Layers 4 and 5 take keys and values from 3 and 2; layer 3 stands before a gap, and lends what it lent."""
    decoder = Decoder(mixtures.model("gemma4_text", num_kv_shared_layers=2))
    whole = copy.deepcopy(decoder)
    fits = repair(Student(decoder, [0, 2, 3, 5]), windows(32), HELD_OUT, "refit", QUIET)
    assert [fit.layer for fit in fits] == [0, 2, 3, 5] and all(fit.written for fit in fits)
    tokens = windows(32).ids[-HELD_OUT:]
    with torch.no_grad():
        aim = states(whole, tokens)[6]
        far = [(states(one, tokens, (1, 4))[6] - aim).norm() for one in (whole, decoder)]
    assert far[1] < far[0]
    with ActivationStore() as store, torch.no_grad():
        search = Search(whole, windows(6), windows(4, seed=1), store)
        assert search.writes
        trials = search.trials([1, 4], None)
        drops = [loss(whole, windows(4, seed=1).ids, {layer}) for layer in (1, 4)]
        assert all(abs(trials[layer].loss - drop) > 1e-4 for layer, drop in zip((1, 4), drops, strict=True))


def test_block_reconstruction_leaves_what_a_layer_lends_as_it_is(decoder: Decoder) -> None:
    with ActivationStore() as store:
        layerwise = LayerwisePass(Student(decoder, KEPT), windows(32), HELD_OUT, store, 4, mixed=False)
        with torch.no_grad():
            for number, _, calls in layerwise.batches():
                layerwise.dense(number, calls)
        before, after = reconstruct_block(layerwise)
        assert after < before
        changed = layerwise.student.changed[4]
        assert changed and not set(changed) & leading(decoder, 4)
