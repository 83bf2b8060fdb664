"""Hadamard matrices by construction, and what stands for one where no construction has the order."""

from __future__ import annotations

import pytest
import torch

from lowrise.edit.hadamard import hadamard, rotation

# Sylvester; Paley's first (12, 20, 24, 44) and second (28 = 2·14, 36 = 2·18, 76 = 2·38); both doubled; hidden sizes
ORDERS = [1, 2, 4, 64, 12, 20, 24, 44, 28, 36, 76, 40, 576, 640, 768, 896, 960, 1152, 1600]


@pytest.mark.parametrize("order", ORDERS)
def test_entries_are_signs_and_rows_are_orthogonal(order: int) -> None:
    made = hadamard(order)
    assert made is not None
    assert torch.equal(made.abs(), torch.ones(order, order, dtype=torch.int64))
    exact = made.double()  # exactly: whole numbers up to the order
    assert torch.equal(exact @ exact.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [2048, 2304, 2560, 2880, 3072, 3200, 3584, 4096, 5120, 5376, 8192])
def test_larger_hidden_sizes_have_one_too(order: int) -> None:
    made = hadamard(order)
    assert made is not None
    rows = made[:: max(1, order // 16)].double()
    assert torch.equal(rows @ made.double().T, order * torch.eye(order, dtype=torch.float64)[:: max(1, order // 16)])


@pytest.mark.parametrize("order", [3, 6, 33, 50, 92])
def test_where_none_is_known_the_rotation_is_a_random_one_that_stays_the_same(order: int) -> None:
    assert hadamard(order) is None
    torch.manual_seed(order)
    undisturbed = torch.rand(1)
    torch.manual_seed(order)
    made, found = rotation(order)
    assert not found
    assert torch.equal(torch.rand(1), undisturbed)
    assert torch.equal(made, rotation(order)[0])
    assert torch.allclose(made @ made.T, torch.eye(order, dtype=torch.float64), atol=1e-12)


def test_a_rotation_by_a_hadamard_matrix_spreads_a_channel_evenly() -> None:
    made, found = rotation(36)
    assert found
    assert torch.allclose(made.abs(), torch.full((36, 36), 1 / 6, dtype=torch.float64))
