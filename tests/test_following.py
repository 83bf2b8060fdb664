"""How settings follow the layers that stay, kind by kind, and what they can express of cuts."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lowrise.errors import ModelError
from lowrise.model.following import RULES, follow, per_layer_lists
from lowrise.model.passing import LayerArguments, LentStates, with_lent_states
from lowrise.model.periods import PERIODS_ALONE, express_periods
from lowrise.model.restricting import period_restriction, sharing_restriction
from lowrise.restriction import AllowedCuts

KEPT = [0, 1, 4, 5, 7]  # of eight


def settings(**more: Any) -> Any:
    return SimpleNamespace(**{"num_hidden_layers": 8, "model_type": "made-up", **more})


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("entries", list("abcdefgh"), list("abefh")),
        ("entries", "MMMM*E-M", "MM*EM"),
        ("first", 5, 3),  # layers 0, 1 and 4
        ("first", 0, 0),
        ("first", 28, 5),
        ("last", 4, 2),
        ("last", 7, 4),
        ("behind", 3, 2),  # layers 5 and 7
        ("numbers", [1, 4, 6], [1, 2]),
        ("numbers from one", [1, 6], [1, 4]),
        ("repeated", [[["global", "local"], 4]], [[["global", "local", "global", "local", "local"], 1]]),
        ("cycle", ["r", "r", "a"], ["r", "r", "r", "a", "r"]),
        ("root of depth", 1.6, pytest.approx(1.6 * (5 / 8) ** 0.5)),
    ],
)
def test_a_kind_of_setting_follows(kind: str, before: Any, after: Any) -> None:
    assert RULES[kind](before, KEPT, 8) == after


def test_settings_follow_by_name_and_by_form() -> None:
    config = settings(
        layer_types=["full_attention", "sliding_attention"] * 4,
        first_k_dense_replace=2,
        some_layers=[2, 5, 7],  # in no table: numbers by their form
        mtp_layer_types=["full_attention"] * 8,  # of layers behind the stack
        no_rope_layers=[1, 1, 1, 0] * 2,  # a mark for each layer, no numbers
        num_nextn_predict_layers=1,
        hidden_size=8,
    )
    follow(config, KEPT)
    assert config.layer_types == [["full_attention", "sliding_attention"][layer % 2] for layer in KEPT]
    assert (config.first_k_dense_replace, config.some_layers) == (2, [3, 4])
    assert config.mtp_layer_types == ["full_attention"] * 8
    assert config.no_rope_layers == [1, 1, 1, 1, 0]
    assert (config.num_hidden_layers, config.hidden_size, config.num_nextn_predict_layers) == (5, 8, 0)


def test_overrides_by_layer_number_follow() -> None:
    config = settings(
        _heterogeneity_spec=SimpleNamespace(per_layer_overrides={1: {"head_dim": 16}, 3: {}, 7: {"a": 1}})
    )
    follow(config, KEPT)
    assert config._heterogeneity_spec.per_layer_overrides == {1: {"head_dim": 16}, 4: {"a": 1}}


def test_the_depth_of_a_decoder_has_its_own_word() -> None:
    config = settings(decoder_layers=8, num_hidden_layers=2)  # which counts the encoder's
    follow(config, KEPT)
    assert (config.decoder_layers, config.num_hidden_layers) == (5, 2)


def test_lists_of_one_entry_a_layer_are_told_from_numbers_of_layers() -> None:
    config = settings(layer_types=["a"] * 8, moe_layers=list(range(8)), intermediate_size=[4] * 8, other=[0] * 8)
    assert per_layer_lists(config) == ["layer_types", "intermediate_size"]


def test_a_step_becomes_the_list_that_is_read_beside_it() -> None:
    config = settings(decoder_sparse_step=2, mlp_only_layers=[4])  # sparse: 1, 3, 5, 7
    express_periods(config, KEPT)
    assert (config.decoder_sparse_step, config.mlp_only_layers) == (1, [0, 2, 4])  # now layers 0, 4 and the listed 4


def test_a_period_stays_where_it_tells_what_stays() -> None:
    config = settings(decoder_sparse_step=2, mlp_only_layers=[])
    express_periods(config, [0, 1, 4, 5])
    assert (config.decoder_sparse_step, config.mlp_only_layers) == (2, [])


def test_a_period_and_its_offset_move() -> None:
    config = settings(attn_layer_period=4, attn_layer_offset=2)  # 2 and 6
    express_periods(config, [2, 3, 4, 5, 6, 7])
    assert (config.attn_layer_period, config.attn_layer_offset) == (4, 0)
    config = settings(attn_layer_period=4, attn_layer_offset=2)
    express_periods(config, [1, 2, 4, 5, 6, 7])
    assert (config.attn_layer_period, config.attn_layer_offset) == (3, 1)


def test_a_period_that_stands_alone_restricts_cuts_to_those_it_can_tell() -> None:
    row = next(row for row in PERIODS_ALONE if row.setting == "attn_layer_period")
    config = settings(attn_layer_period=4, attn_layer_offset=2)
    restriction = period_restriction(row, config)

    def told(kept: tuple[int, ...]) -> bool:
        marked = [layer % 4 == 2 for layer in kept]
        depth = len(kept)
        return any(
            marked == [i % period == offset for i in range(depth)]
            for period in range(1, depth + 2)
            for offset in range(period)
        )

    for n in (1, 2, 3, 6):
        for kept in combinations(range(8), n):
            assert restriction.allows(kept) == told(kept), kept


def test_layers_that_lend_their_keys_and_values_stay() -> None:
    types = ["sliding", "full"] * 4
    restriction = sharing_restriction(settings(layer_types=types), shared=3)  # 5, 6 and 7 take from 3 and 4
    cuts = AllowedCuts(8, [restriction])
    assert cuts.removable(1) == [0, 1, 2, 5, 6, 7]
    assert restriction.allows([3, 4])
    assert not restriction.allows([0, 1, 2, 3, 5, 6, 7])


class TestLentStates:
    def calls(self) -> list[LayerArguments]:
        shared: dict[str, Any] = {}
        return with_lent_states([LayerArguments((), {"lent": shared, "mask": None}) for _ in range(3)])

    def test_all_layers_have_the_same(self) -> None:
        first, *others = [call.kwargs["lent"] for call in self.calls()]
        assert isinstance(first, LentStates)
        assert all(other is first for other in others)

    def test_a_mapping_that_holds_something_is_the_familys_own(self) -> None:
        positions = {"full": torch.ones(1)}
        calls = with_lent_states([LayerArguments((), {"positions": positions})] * 2)
        assert calls[0].kwargs["positions"] is positions

    def test_a_run_sees_nothing_of_the_one_before(self) -> None:
        lent = LentStates()
        lent.enter(0)
        lent["full"] = 1
        lent.enter(2)
        assert lent["full"] == 1
        lent.enter(1)  # another run, which begins above the layer that lends
        with pytest.raises(ModelError, match="choose a preset that runs all layers in order"):
            _ = lent["full"]
