"""What was kept of the scores, and how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lowrise.measure.retained import Scores, retained


def scores(dense: Any, compressed: Any, chance: float | None = None, sizes: tuple[int, ...] = ()) -> Scores:
    dense, compressed = np.asarray(dense, dtype=float), np.asarray(compressed, dtype=float)
    n = len(dense)
    strata = np.repeat(np.arange(len(sizes)), sizes) if sizes else np.zeros(n, dtype=int)
    return Scores("acc", dense, compressed, np.full(n, 1 / n), strata, chance)


def test_values_by_hand() -> None:
    """Dense 6/8, compressed 4/8, chance 1/4: ratio 2/3, above chance (1/4) / (1/2). The other task: 1 and 1."""
    first = scores([1] * 6 + [0] * 2, [1] * 4 + [0] * 4, 0.25)
    found = retained({"a": first, "b": scores([1, 1], [1, 1], 0.5)})
    assert found["tasks"]["a"].ratio == pytest.approx(2 / 3)
    assert found["tasks"]["a"].above_chance == pytest.approx(1 / 2)
    assert found["tasks_mean"].ratio == pytest.approx((2 / 3 + 1) / 2)
    assert found["tasks_mean"].above_chance == pytest.approx(3 / 4)


def test_equal_answers_are_kept_whole_without_doubt() -> None:
    same = np.random.default_rng(0).integers(0, 2, 60)
    row = retained({"a": scores(same, same)})["tasks"]["a"]
    assert (row.ratio, row.ratio_low, row.ratio_high) == (1, 1, 1)


def test_resamples_are_paired() -> None:
    """Half of every sample's score: half in every resample, however the samples fall."""
    dense = np.random.default_rng(0).random(50)
    row = retained({"a": scores(dense, dense / 2)})["tasks"]["a"]
    assert row.ratio_low == pytest.approx(0.5)
    assert row.ratio_high == pytest.approx(0.5)


def test_the_interval_has_the_width_of_the_delta_method() -> None:
    """Independent answers, p = 0.8 and q = 0.6, n = 2,000: var(q/p) = (q/p)² ((1-q)/(nq) + (1-p)/(np))."""
    n, p, q = 2000, 0.8, 0.6
    order = np.random.default_rng(1).permutation(n)
    row = retained({"a": scores(np.arange(n) < p * n, (np.arange(n) < q * n)[order])})["tasks"]["a"]
    width = 2 * 1.96 * (q / p) * np.sqrt((1 - q) / (n * q) + (1 - p) / (n * p))
    assert row.ratio_high - row.ratio_low == pytest.approx(width, rel=0.1)
    assert row.ratio == pytest.approx(q / p)
    assert row.ratio_low < q / p < row.ratio_high


def test_the_same_samples_give_the_same_interval() -> None:
    one = scores([1, 0, 1, 1, 1, 1], [1, 0, 0, 1, 1, 0], 0.25)
    assert retained({"a": one}) == retained({"a": one})


def test_a_groups_subtasks_keep_their_sizes_in_every_resample() -> None:
    """One subtask all right, the other all wrong: no resample within them can change a mean."""
    row = retained({"a": scores([1] * 4 + [0] * 6, [1] * 4 + [0] * 6, sizes=(4, 6))})["tasks"]["a"]
    plain = retained({"a": scores([1] * 10, [1] * 4 + [0] * 6)})["tasks"]["a"]
    whole = retained({"a": scores([1] * 10, [1] * 4 + [0] * 6, sizes=(4, 6))})["tasks"]["a"]
    assert row.ratio == 1
    assert (whole.ratio_low, whole.ratio_high) == (pytest.approx(0.4), pytest.approx(0.4))
    assert plain.ratio_low < 0.2


@pytest.mark.parametrize(
    ("dense", "chance", "null", "reason"),
    [
        ([0] * 8, None, "ratio", "scores 0"),
        ([1, 0] * 4, 0.5, "above_chance", "not above chance"),
        ([1, 0, 0, 0] * 2, 0.5, "above_chance", "not above chance"),
        ([1, 1] * 4, None, "above_chance", "no chance level"),
    ],
)
def test_no_number_is_invented(dense: list[int], chance: float | None, null: str, reason: str) -> None:
    row = retained({"a": scores(dense, [1] * 8, chance)})["tasks"]["a"]
    values = row.model_dump()
    assert values[null] is values[f"{null}_low"] is values[f"{null}_high"] is None
    assert reason in values[f"reason_{null}"]


def test_an_interval_that_would_hold_a_division_by_nothing_is_not_given() -> None:
    row = retained({"a": scores([1] * 5 + [0] * 4, [1] * 5 + [0] * 4, 0.5)})["tasks"]["a"]
    assert row.above_chance == pytest.approx(1)
    assert row.above_chance_low is row.above_chance_high is None
    assert "not above chance" in row.reason_above_chance_interval


def test_the_mean_leaves_out_what_has_no_value_and_says_so() -> None:
    mean = retained({"a": scores([0] * 4, [1] * 4), "b": scores([1] * 4, [1] * 4)})["tasks_mean"]
    assert mean.ratio == 1
    assert "a" in mean.reason_ratio
    assert mean.above_chance is None
