"""The algebra of closed-form repairs: ridge and least squares from sums, and the map for directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lowrise.edit.cosine_map import cosine_map
from lowrise.edit.gram import RIDGES, Gram, damped_factor, fold, folded_change, solve
from ridges import ridge


def data(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 5, generator=generator), torch.randn(tokens, 3, generator=generator)


def gram(a: Tensor, e: Tensor) -> Gram:
    made = Gram(a.shape[1], e.shape[1], a.device)
    for part in zip(a.split(7), e.split(7), strict=True):
        made.add(*part)
    return made


class TestSolve:
    def test_is_the_ridge_regression_that_does_best_on_held_out_tokens(self) -> None:
        (a, e), (b, f) = data(60, 0), data(40, 1)
        e = e * 0.1 + a @ torch.ones(5, 3)
        f = f * 0.1 + b @ torch.ones(5, 3)
        found = solve(gram(a, e), gram(b, f))
        naive = {one: ridge(a.double(), e.double(), one) for one in RIDGES}
        errors = {one: float((b.double() @ x - f.double()).square().sum()) for one, x in naive.items()}
        best = min(errors, key=lambda one: errors[one])
        assert found.ridge == best
        assert torch.allclose(found.change, naive[best], atol=1e-5)
        assert found.after == pytest.approx(errors[best] / 40, rel=1e-4)
        assert found.before == pytest.approx(float(f.square().sum()) / 40, rel=1e-5)

    def test_changes_nothing_where_nothing_helps_on_held_out_tokens(self) -> None:
        (a, e), (b, _) = data(60, 0), data(40, 1)
        found = solve(gram(a, e), gram(b, -b @ ridge(a, e, 1e-5)))
        assert found.ridge is None
        assert not found.change.any()
        assert found.before == found.after

    def test_fold_is_the_least_squares_map_of_the_output(self) -> None:
        (a, e), matrix = data(60, 0), torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
        m = (a @ matrix).double()
        expected = matrix.double() @ torch.linalg.lstsq(m, e.double() + m).solution
        found = fold(gram(a, e), gram(a, e), matrix)
        assert torch.allclose(matrix + found.change, expected, atol=1e-5)


class TestSolveOfFewTokens:
    """15 tokens at most for the 8 inputs of a matrix W (8, 3) whose outputs are missed mapped by T, and more."""

    W = torch.randn(8, 3, generator=torch.Generator().manual_seed(9))

    def tokens(self, count: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(count, 8, generator=generator)
        turned = torch.randn(3, 3, generator=torch.Generator().manual_seed(10)) - torch.eye(3)
        more = self.W @ turned + 0.5 * torch.randn(8, 3, generator=torch.Generator().manual_seed(11))
        return a, a @ more + noise * torch.randn(count, 3, generator=generator)

    def sums(self, fitted: int, seed: int, noise: float = 0.5) -> tuple[Gram, Gram]:
        return gram(*self.tokens(fitted, seed, noise)), gram(*self.tokens(20, 100 + seed, noise))

    def test_is_the_ridge_toward_the_share_of_the_folded_map_that_held_out_tokens_like_best(self) -> None:
        (a, e), (b, f) = self.tokens(15, 0), self.tokens(20, 100)
        found = solve(*self.sums(15, 0), matrix=self.W)
        a, e, b, f, w = a.double(), e.double(), b.double(), f.double(), self.W.double()
        turns = [ridge(a @ w, e, one) for one in RIDGES]
        folded = w @ min(turns, key=lambda t: float((b @ w @ t - f).square().sum()))
        tried = {}
        for one in RIDGES:
            below = (one * a.square().sum() / 8).sqrt() * torch.eye(8, dtype=torch.float64)
            for share in torch.linspace(0, 1, 201, dtype=torch.float64).tolist():
                stacked = torch.cat([a, below]), torch.cat([e, below @ folded * share])
                x = torch.linalg.lstsq(*stacked).solution
                tried[one, share] = float((b @ x - f).square().sum()), x
        least = {one: min((v for (o, _), v in tried.items() if o == one), key=lambda v: v[0]) for one in RIDGES}
        at = min(range(len(RIDGES)), key=lambda one: least[RIDGES[one]][0])
        expected = least[RIDGES[at]][1]
        assert 0 < found.folded < 1
        assert torch.allclose(found.change, expected, atol=0.01)
        assert found.after == pytest.approx(float((b @ expected - f).square().sum()) / 20, rel=1e-3)

    @pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 5.0])
    @pytest.mark.parametrize("fitted", [3, 8, 12, 15])
    def test_is_never_behind_either_end_on_held_out_tokens(self, fitted: int, noise: float) -> None:
        for seed in range(10):
            fit, held_out = self.sums(fitted, seed, noise)
            found, plain = solve(fit, held_out, matrix=self.W), solve(fit, held_out)
            folded = held_out.error(folded_change(fit, held_out, self.W)) / held_out.tokens
            assert found.after <= min(plain.after, folded, found.before)
            assert found.after * held_out.tokens == pytest.approx(held_out.error(found.change), rel=1e-6, abs=1e-6)

    def test_looks_at_no_map_where_tokens_are_many(self) -> None:
        fit, held_out = self.sums(16, 0)
        found, plain = solve(fit, held_out, matrix=self.W), solve(fit, held_out)
        assert torch.equal(found.change, plain.change)
        assert found.folded == 0

    def test_sums_of_what_a_matrix_makes_are_those_of_its_outputs(self) -> None:
        a, e = self.tokens(15, 0)
        through, plainly = gram(a, e).through(self.W.double()), gram(a @ self.W, e)
        assert torch.allclose(through.inputs, plainly.inputs, rtol=1e-5, atol=1e-4)
        assert torch.allclose(through.cross, plainly.cross, rtol=1e-5, atol=1e-4)
        assert (through.squares, through.tokens) == (plainly.squares, plainly.tokens)


def test_the_cosine_map_goes_where_gradient_descent_in_full_goes() -> None:
    """The published loop written plainly: Adam from the identity, one step a batch."""
    generator = torch.Generator().manual_seed(0)
    m, rest, target = (torch.randn(4, 50, 6, generator=generator) for _ in range(3))
    tokens = [(m[i], m[i] + rest[i], target[i]) for i in range(4)]
    found, before, after = cosine_map(lambda: iter(tokens[:3]), lambda: iter(tokens[3:]), 6)
    t = torch.eye(6, requires_grad=True)
    optimiser = torch.optim.Adam([t], lr=1e-4)
    for _ in range(10):
        for i in range(3):
            optimiser.zero_grad()
            (1 - torch.cosine_similarity(m[i] @ t + rest[i], target[i], dim=-1)).mean().backward()
            optimiser.step()
    assert torch.allclose(found, t, atol=1e-5)
    distances = [
        1 - torch.cosine_similarity(m[3] @ x + rest[3], target[3], dim=-1).mean() for x in (torch.eye(6), t.detach())
    ]
    assert [before, after] == pytest.approx([float(one) for one in distances], abs=1e-6)


def test_sums_that_rounding_spoils_are_passed_over() -> None:
    spoilt = gram(torch.zeros(8, 5), torch.zeros(8, 3))
    assert damped_factor(spoilt, 1e-3) is None
    found = solve(spoilt, gram(*data(40, 1)))
    assert found.ridge is None
    assert not found.change.any()
