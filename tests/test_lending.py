"""Layers that lend keys and values: which do, and runs that begin in the middle with what was lent below."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tiny
from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.lending import ALONE, going_on, leading, lends, lent_in, sources_below
from lowrise.model.passing import LayerArguments, LentStates, with_lent_states
from shared_keys import KINDS, LENDERS, decoder_of, states


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return decoder_of(request.param)


def test_each_lender_is_found_with_what_it_lends(decoder: Decoder) -> None:
    expected = {layer: tuple(("shared_kv_states", kind, part) for part in (0, 1)) for layer, kind in LENDERS.items()}
    assert lends(decoder) == expected
    assert {place[1]: layer for place, layer in sources_below(decoder, 4).items()} == {"full_attention": 3}
    assert {place[1]: layer for place, layer in sources_below(decoder, 5).items()} == {
        kind: layer for layer, kind in LENDERS.items()
    }


def test_lenders_have_other_numbers_after_a_cut(decoder: Decoder) -> None:
    assert set(lends(decoder)) == {3, 4}
    decoder.drop(1, 2)
    assert set(lends(decoder)) == {2, 3}


def test_most_models_lend_nothing() -> None:
    decoder = Decoder(tiny.model("llama"))
    _, calls = decoder.embed(tiny.ids())
    assert (lends(decoder), leading(decoder, 1), lent_in(calls)) == ({}, set(), {})
    assert going_on(calls, dict) is calls


def test_what_is_lent_is_made_of_the_keys_and_values_alone(decoder: Decoder) -> None:
    made = leading(decoder, 4)
    assert {"self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight"} <= made
    assert not {name for name in made if name.startswith(("mlp", "self_attn.q", "self_attn.o"))}
    assert leading(decoder, 2) == leading(decoder, 6) == set()


@torch.no_grad()
def test_a_run_goes_on_in_the_middle_as_often_as_wanted(decoder: Decoder) -> None:
    """The states are the model's own, from any layer on: the way up to there is gone once, and then no more."""
    ids = tiny.ids()
    expected = states(decoder, ids)
    h, calls = decoder.embed(ids)
    kept = {}
    for layer in range(len(decoder)):
        kept[layer] = h, lent_in(calls)
        h = decoder.step(layer, h, calls)
    for start, (first, lent) in kept.items():
        again = going_on(decoder.embed(ids)[1], lambda lent=lent: lent)  # type: ignore[misc]
        for _ in range(2):
            h = first
            for layer in range(start, len(decoder)):
                assert torch.equal(h, expected[layer])
                h = decoder.step(layer, h, again)
            assert torch.equal(h, expected[len(decoder)])


def test_a_run_that_begins_above_a_lender_with_nothing_lent_is_refused(decoder: Decoder) -> None:
    h, calls = decoder.embed(tiny.ids())
    with pytest.raises(ModelError, match="the keys and values of a layer below it"):
        decoder.step(6, h, calls)


class TestWhatIsLent:
    def calls(self) -> list[LayerArguments]:
        return with_lent_states([LayerArguments((), {"lent": {}, "mask": None})])

    def test_a_new_run_begins_with_what_was_lent_below(self) -> None:
        asked: list[int] = []

        def below() -> dict[Any, Any]:
            asked.append(1)
            return {"full": 1}

        lent = LentStates(below)
        assert not asked
        lent.enter(4)
        lent["sliding"] = 2
        lent.enter(5)
        assert dict(lent) == {"full": 1, "sliding": 2}
        lent.enter(4)  # another run
        assert dict(lent) == {"full": 1}
        assert len(asked) == 2

    def test_it_comes_back_as_it_was_put_down(self) -> None:
        calls = self.calls()
        put = {"pair": (torch.zeros(1), torch.ones(1)), 7: torch.ones(2)}
        calls[0].kwargs["lent"].update(put)
        found = lent_in(calls)
        assert [*found] == [("lent", "pair", 0), ("lent", "pair", 1), ("lent", 7, ALONE)]
        again = going_on(calls, lambda: found)[0].kwargs["lent"]
        again.enter(0)
        assert again["pair"][1] is put["pair"][1] and again[7] is put[7]

    def test_what_is_no_tensor_is_refused(self) -> None:
        calls = self.calls()
        calls[0].kwargs["lent"]["cache"] = (torch.ones(1), "word")
        with pytest.raises(ModelError, match="expected tensors, found str"):
            lent_in(calls)
