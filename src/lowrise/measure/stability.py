"""Stability of a compressed model's answers (LLM-Streamline, https://arxiv.org/abs/2403.19135; METHODS 1.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lowrise.measure.answers import Answer

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def stability(dense: Sequence[Answer], compressed: Sequence[Answer]) -> float | None:
    """Σ_i w_i · consistent(i) over the samples of one task; the mean over subjects where samples name one.

    w = softmax over the samples of σ_i, the population standard deviation over sample i's options of their mean token
    cross-entropy (nats, minus log-likelihood over tokens) under the DENSE model. consistent(i): both models right or
    both wrong, by lm-eval's `acc`. None where a log-likelihood is not finite.
    """
    return _by_subject(dense, compressed, lambda w, consistent: float(w[consistent].sum()))


def stability_published(dense: Sequence[Answer], compressed: Sequence[Answer]) -> float | None:
    """What the published script computes: the sum of the FIRST k weights, k the number of consistent samples."""
    return _by_subject(dense, compressed, lambda w, consistent: float(w[: consistent.sum()].sum()))


def agreement(dense: Sequence[Answer], compressed: Sequence[Answer]) -> float:
    """The share of samples where both models choose the same option."""
    same = [a.chosen == b.chosen for a, b in zip(dense, compressed, strict=True)]
    return sum(same) / len(same)


def weights(dense: Sequence[Answer]) -> Floats:
    """w of the samples, summing to one."""
    sigma = np.array([np.std([-value / tokens for value, tokens in answer.options]) for answer in dense])
    raised = np.exp(sigma - sigma.max())
    return np.asarray(raised / raised.sum(), dtype=np.float64)


def _by_subject(
    dense: Sequence[Answer], compressed: Sequence[Answer], value: Callable[[Floats, Booleans], float]
) -> float | None:
    values = []
    for subject in dict.fromkeys(answer.subject for answer in dense):
        pairs = [pair for pair in zip(dense, compressed, strict=True) if pair[0].subject == subject]
        before = [a for a, _ in pairs]
        if not all(np.isfinite(ll) for answer in before for ll, _ in answer.options):
            return None
        consistent = np.array([a.scores["acc"] == b.scores["acc"] for a, b in pairs])
        values.append(value(weights(before), consistent))
    return sum(values) / len(values)
