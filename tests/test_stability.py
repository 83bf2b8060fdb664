"""Stability by hand: METHODS 1.4."""

from __future__ import annotations

import math

import pytest

from lowrise.measure.answers import Answer
from lowrise.measure.stability import agreement, stability, stability_published, weights

LN2 = math.log(2)


def answer(*entropies: float, right: bool, tokens: int = 1, subject: str | None = None) -> Answer:
    """A sample whose options have these mean token cross-entropies."""
    options = [(-entropy * tokens, tokens) for entropy in entropies]
    return Answer(scores={"acc": float(right)}, options=options, subject=subject)


# Two options a and b have the population standard deviation |a - b| / 2. So sigma is 0, ln 2, ln 4 and the softmax is
# 1/7, 2/7, 4/7. Tokens must not matter: entropies are means over them.
DENSE = [
    answer(3, 3, right=True, tokens=5),
    answer(1, 1 + 2 * LN2, right=True, tokens=2),
    answer(4 * LN2, 0, right=False),
]


def test_the_weights_are_the_softmax_of_the_spread_of_the_dense_models_entropies() -> None:
    assert weights(DENSE) == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=1e-15)


@pytest.mark.parametrize(
    ("right", "ours", "published"),
    [
        ((True, True, False), 1.0, 1.0),
        ((False, False, True), 0.0, 0.0),
        ((True, False, False), 5 / 7, 3 / 7),  # samples 0 and 2 consistent; the script sums the first two weights
        ((False, False, False), 4 / 7, 1 / 7),
        ((False, True, True), 2 / 7, 1 / 7),
        ((True, True, True), 3 / 7, 3 / 7),
    ],
)
def test_stability_sums_the_weights_of_consistent_samples_and_the_published_script_the_first_ones(
    right: tuple[bool, ...], ours: float, published: float
) -> None:
    compressed = [answer(9, 1, right=one) for one in right]
    assert stability(DENSE, compressed) == pytest.approx(ours, abs=1e-15)
    assert stability_published(DENSE, compressed) == pytest.approx(published, abs=1e-15)


def test_the_compressed_models_entropies_and_choices_do_not_matter_where_both_are_wrong() -> None:
    one = [answer(1, 2, 3, right=False), answer(3, 2, 1, right=True)]
    other = [answer(7, 0, 7, right=False), answer(0, 0, 0, right=True)]
    assert stability(one, other) == 1


def test_three_options_use_the_population_deviation() -> None:
    """Entropies 0, 3, 6: variance (9 + 0 + 9) / 3 = 6. Against a flat sample the weight is e^√6 / (1 + e^√6)."""
    dense = [answer(0, 3, 6, right=True), answer(1, 1, 1, right=True)]
    compressed = [answer(0, 1, 2, right=True), answer(0, 1, 2, right=False)]
    assert stability(dense, compressed) == pytest.approx(1 / (1 + math.exp(-math.sqrt(6))), abs=1e-15)


def test_a_huge_spread_does_not_overflow() -> None:
    dense = [answer(0, 5000, right=True), answer(0, 1, right=True)]
    assert stability(dense, [answer(0, 1, right=True), answer(0, 1, right=False)]) == 1


def test_subjects_count_alike_whatever_their_size() -> None:
    """Subject a: three flat samples, two consistent, 2/3. Subject b: one, consistent, 1. Mean 5/6; pooled 3/4."""
    dense = [answer(1, 1, right=True, subject=subject) for subject in "aaba"]
    compressed = [answer(1, 1, right=right) for right in (True, False, True, True)]
    assert stability(dense, compressed) == pytest.approx(5 / 6, abs=1e-15)
    assert stability_published(dense, compressed) == pytest.approx(5 / 6, abs=1e-15)


def test_a_log_likelihood_that_is_not_finite_gives_no_number() -> None:
    dense = [answer(1, math.inf, right=True), answer(1, 2, right=True)]
    assert stability(dense, dense) is None
    assert stability_published(dense, dense) is None


def test_agreement_is_the_share_of_equal_choices() -> None:
    one = [answer(1, 2, right=True), answer(2, 1, right=True), answer(1, 1, right=True), answer(3, 1, right=True)]
    other = [answer(0, 1, right=True), answer(0, 1, right=False), answer(5, 6, right=True), answer(9, 8, right=True)]
    assert agreement(one, other) == 3 / 4
