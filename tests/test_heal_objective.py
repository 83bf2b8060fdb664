"""The loss of a student, taken chunk by chunk, is that of a plain loop over whole logits, and so are its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from lowrise.heal.divergence import kl
from lowrise.heal.head import chunks
from lowrise.heal.objective import Goal, StudentLoss
from lowrise.heal.teacher import Resident
from lowrise.heal.training import all_but
from lowrise.model.batching import Batching
from lowrise.model.decoder import Decoder

SMALL = 60  # tokens: with 59 of them by name and the one that is left, buckets are the whole distribution
LARGE = 256


def naive(student: Any, dense: Any, ids: Tensor, goal: Goal, buckets: bool) -> Tensor:
    """Summed over positions, from whole logits. buckets: over the dense model's 64 likeliest tokens and the rest."""
    with torch.no_grad():
        p = (dense(ids).logits[:, :-1] / goal.temperature).log_softmax(-1)
    logits = student(ids).logits[:, :-1]
    q = (logits / goal.temperature).log_softmax(-1)
    if buckets:
        top = p.topk(min(64, p.shape[-1] - 1)).indices
        mask = torch.ones_like(p, dtype=torch.bool).scatter(-1, top, False)
        p, q = (
            torch.cat([one.gather(-1, top), one.masked_fill(~mask, -torch.inf).logsumexp(-1, keepdim=True)], -1)
            for one in (p, q)
        )
    kl = goal.temperature**2 * (p.exp() * (p - q)).sum()
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return goal.kl * kl + (1 - goal.kl) * ce


def both(family: str, goal: Goal, buckets: bool = False, **changes: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(our loss, the naive one, by parameter the difference of their gradients over the larger one's norm). buckets:
    of what is stored.
    """
    student, dense = tiny.model(family, seed=0, **changes), tiny.model(family, seed=1, **changes)
    ids = tiny.ids(3, 20) % student.config.vocab_size
    counted = all_but(0, ids)
    loss = StudentLoss(Decoder(student), goal)
    teacher = Resident(Decoder(dense), goal.temperature)
    targets = teacher.likeliest(ids, counted) if buckets else teacher.targets([0, 1, 2], ids, counted)
    ours = loss(ids, counted, targets)
    (ours * 0.5).backward()
    mine = {name: value.grad for name, value in student.named_parameters()}
    student.zero_grad()
    theirs = naive(student, dense, ids, goal, buckets)
    (theirs * 0.5).backward()
    apart = []
    for name, value in student.named_parameters():
        own, other = mine[name], value.grad
        assert (own is None) == (other is None), name
        if own is not None and other is not None:
            apart.append((own - other).norm() / other.norm().clamp_min(1e-3))
    return ours.detach(), theirs.detach(), apart


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt"])
@pytest.mark.parametrize("goal", [Goal(1.0), Goal(1.0, 2.0), Goal(0.0), Goal(0.3, 0.5)])
@pytest.mark.parametrize("stored", [False, True])
def test_it_is_that_of_the_whole_distributions(
    family: str, goal: Goal, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a dense model in memory; of what is stored, where the vocabulary is small."""
    words = SMALL if stored else LARGE
    monkeypatch.setattr("lowrise.heal.head.FEWEST", 7)  # so many positions at a time
    monkeypatch.setattr(Batching, "chunk_of_logits", words * 7)
    ours, theirs, apart = both(family, goal, stored, vocab_size=words)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    assert max(apart) < 1e-4


def test_a_processor_takes_many_positions_of_a_wide_head(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny.model(max_position_embeddings=1024))
    monkeypatch.setattr(Batching, "chunk_of_logits", tiny.VOCABULARY * 64)
    assert [*chunks(decoder, 600)] == [slice(0, 256), slice(256, 512), slice(512, 600)]
    monkeypatch.setattr(Batching, "chunk_of_logits", tiny.VOCABULARY * 400)
    assert [*chunks(decoder, 600)] == [slice(0, 400), slice(400, 600)]


@pytest.mark.parametrize("goal", [Goal(1.0), Goal(0.5, 2.0)])
def test_of_a_large_vocabulary_it_is_that_of_65_buckets(goal: Goal) -> None:
    ours, theirs, apart = both("llama", goal, buckets=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    assert max(apart) < 1e-4


def test_kl_over_buckets_is_at_most_that_of_the_whole_distributions() -> None:
    stored, _, _ = both("llama", Goal(1.0), buckets=True)
    whole, _, _ = both("llama", Goal(1.0))
    assert 0 < stored <= whole


@pytest.mark.parametrize("rows", [LARGE - 6, LARGE + 8])
def test_heads_may_be_of_other_widths(rows: int) -> None:
    """Rows that fill a matrix up belong to no token: what the dense model gives them is left out, what the student
    gives them it loses.
    """
    logits, dense = torch.randn(5, LARGE, requires_grad=True), torch.randn(5, rows)
    width = min(rows, LARGE)
    p, q = dense[:, :width].log_softmax(1), logits.log_softmax(1)[:, :width]
    expected = (p.exp() * (p - q)).sum(1)
    expected.sum().backward()
    found, slope = kl(logits.detach().clone(), 1.0, dense, backward=True)
    assert slope is not None and logits.grad is not None
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(slope, logits.grad, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_the_dense_model_has_no_loss_and_no_gradient() -> None:
    model = tiny.model()
    ids = tiny.ids(2, 20)
    counted = all_but(0, ids)
    loss = StudentLoss(Decoder(model), Goal(1.0))
    value = loss(ids, counted, Resident(Decoder(model), 1.0).targets([0, 1], ids, counted))
    value.backward()
    assert abs(float(value.detach())) < 1e-3
    assert max(float(p.grad.norm()) for p in model.parameters() if p.grad is not None) < 1e-2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_that_do_not_count_give_no_gradient(checkpointing: bool) -> None:
    """Those behind the last that counts change nothing; a window of none has a loss of 0."""
    model = tiny.model()
    loss = StudentLoss(Decoder(model), Goal(0.0), checkpointing)
    ids = tiny.ids(2, 20)
    counted = torch.zeros_like(ids, dtype=torch.bool)
    counted[:, 5:9] = True
    found = []
    for tokens in (ids, torch.cat([ids[:, :9], ids[:, 9:].flip(1)], 1)):
        model.zero_grad()
        value = loss(tokens, counted)
        value.backward()
        found.append((float(value.detach()), model.lm_head.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    model.zero_grad()
    value = loss(ids, torch.zeros_like(counted))
    value.backward()
    assert float(value.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_what_is_frozen_gets_no_gradient() -> None:
    model = tiny.model()
    model.requires_grad_(False)
    model.model.layers[2].requires_grad_(True)
    StudentLoss(Decoder(model), Goal(0.0))(tiny.ids(1, 9), all_but(0, tiny.ids(1, 9))).backward()
    assert {name.split(".")[2] for name, p in model.named_parameters() if p.grad is not None} == {"2"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2: a tied head
def test_without_a_position_that_counts_all_gradients_are_zeros(family: str) -> None:
    """None would be fewer than other processes have."""
    student, ids = tiny.model(family), tiny.ids(2, 8)
    loss = StudentLoss(Decoder(student), Goal(0.0))
    seen = {}
    for count in (True, False):
        student.zero_grad()
        loss(ids, all_but(0, ids) & count).backward()
        seen[count] = {name: value.grad for name, value in student.named_parameters()}
    assert all(value is not None for value in seen[True].values())
    assert all(value is not None and not value.any() for value in seen[False].values())
