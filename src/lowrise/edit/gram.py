"""Least squares from sums alone: what a closed-form repair keeps of its tokens, and the ridge solution for every λ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.exact import exact, exact_device, full_products

# Ridge toward the matrix as it is, in units of the mean squared input. What wins on held-out tokens is taken; at the
# largest hardly anything moves, at the smallest only directions that no calibration token has are held.
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Fitted tokens an input of a matrix. Below FEW a map with fewer unknowns can be ahead of the ridge toward the matrix as
# it is, above it was not (docs/log.md, 2026-11-30). At n of them the error is about .3·n^-0.8 above what it tends to:
# from ENOUGH on less than 5%.
FEW, ENOUGH = 2.0, 10.0


def few(tokens: int, inputs: int) -> bool:
    """Whether so many tokens are few for a matrix with so many inputs."""
    return tokens < FEW * inputs


class Gram:
    """AᵀA (k, k), AᵀE (k, d) and ‖E‖² of the inputs A (tokens, k) of a matrix and the errors E (tokens, d) of what it
    makes of them; tokens are not kept. They lie on the matrix's `device`, or near it.

    Each batch's product is float32, their sum float64: rounding does not grow with the number of tokens.
    """

    def __init__(self, k: int, d: int, device: torch.device) -> None:
        device = exact_device(device)
        self.inputs = torch.zeros(k, k, dtype=torch.float64, device=device)
        self.cross = torch.zeros(k, d, dtype=torch.float64, device=device)
        self.squares = 0.0
        self.tokens = 0

    @full_products()
    def add(self, a: Tensor, e: Tensor, weight: Tensor | None = None) -> None:
        """a: (..., k), e: (..., d), of the same tokens; weight: (...), what each counts, 1 without it."""
        a, e = a.flatten(0, -2).float(), e.flatten(0, -2).float()
        if weight is not None:
            root = weight.flatten().float().sqrt().unsqueeze(1)
            a, e = a * root, e * root
        half = a.shape[1] // 2  # what lies above the diagonal lies below it too, and is not multiplied twice
        first, last = a[:, :half], a[:, half:]
        above = (first.T @ last).to(self.inputs.device)
        self.inputs[:half, half:] += above
        self.inputs[half:, :half] += above.T
        self.inputs[:half, :half] += (first.T @ first).to(self.inputs.device)
        self.inputs[half:, half:] += (last.T @ last).to(self.inputs.device)
        self.cross += (a.T @ e).to(self.cross.device)
        self.squares += float(e.square().sum())
        self.tokens += len(a)

    @full_products()
    def add_parts(self, parts: Sequence[tuple[Tensor, Tensor | None]], e: Tensor, weight: Tensor) -> None:
        """The same of inputs side by side, each given by some tokens alone, and 0 of all others.

        parts: ((n, its k), (n,) which tokens these are, None for all of them, in order); e: (tokens, d); weight:
        (tokens,).
        """
        root = weight.float().sqrt().unsqueeze(1)
        e = e.float() * root
        placed: list[tuple[slice, Tensor, Tensor | None]] = []
        for given, tokens in parts:
            start = placed[-1][0].stop if placed else 0
            rows = slice(start, start + given.shape[1])
            a = given.float() * (root if tokens is None else root[tokens])
            self.inputs[rows, rows] += (a.T @ a).to(self.inputs.device)
            self.cross[rows] += (a.T @ (e if tokens is None else e[tokens])).to(self.cross.device)
            for others, b, theirs in placed:
                one, other = _common(a, tokens, b, theirs, len(e))
                across = (one.T @ other).to(self.inputs.device)
                self.inputs[rows, others] += across
                self.inputs[others, rows] += across.T
            placed.append((rows, a, tokens))
        self.squares += float(e.square().sum())
        self.tokens += len(e)

    def error(self, change: Tensor) -> float:
        """‖A·change - E‖² over the tokens seen; change: (k, d), float64."""
        return self.squares + float(((self.inputs @ change - 2 * self.cross) * change).sum())

    def through(self, matrix: Tensor) -> Gram:
        """Of what `matrix` (k, d) makes of the inputs, in their place: A·W."""
        part = Gram(0, 0, self.inputs.device)
        part.inputs, part.cross = matrix.T @ self.inputs @ matrix, matrix.T @ self.cross
        part.squares, part.tokens = self.squares, self.tokens
        return part

    def keeping(self, rows: Tensor, matrix: Tensor) -> Gram:
        """Of the inputs `rows` (n,) of `matrix` (k, d), when the others and what the matrix made of them are gone.

        The errors are then what was missing and what the others wrote.
        """
        gone = torch.ones(len(self.inputs), dtype=torch.bool, device=self.inputs.device)
        gone[rows] = False
        wrote = matrix[gone]
        part = Gram(0, 0, self.inputs.device)
        part.inputs = self.inputs[rows][:, rows]
        part.cross = self.cross[rows] + self.inputs[rows][:, gone] @ wrote
        lost = 2 * self.cross[gone] + self.inputs[gone][:, gone] @ wrote
        part.squares, part.tokens = self.squares + float((lost * wrote).sum()), self.tokens
        return part


def _common(a: Tensor, tokens: Tensor | None, b: Tensor, others: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The rows of both of the tokens that both have, in one order. count: of all tokens."""
    if tokens is None or others is None:
        return a if others is None else a[others], b if tokens is None else b[tokens]  # one of the two has all
    place = torch.full((count,), -1, device=others.device)
    place[others] = torch.arange(len(others), device=others.device)
    at = place[tokens]
    return a[at >= 0], b[at[at >= 0]]


def two_grams(shape: Sequence[int], device: torch.device) -> tuple[Gram, Gram]:
    """Of the fitted and of the held-out tokens, for a matrix of `shape` (k, d)."""
    k, d = shape
    return Gram(k, d, device), Gram(k, d, device)


def gather(
    shape: Sequence[int], device: torch.device, batches: Iterable[tuple[bool, Tensor, Tensor, Tensor | None]]
) -> tuple[Gram, Gram]:
    """The same with their sums. batches: (whether it is held out, a, e, weight), the latter three as of `Gram.add`."""
    fit, held_out = two_grams(shape, device)
    for held, a, e, weight in batches:
        (held_out if held else fit).add(a, e, weight)
    return fit, held_out


def weight_of(target: Tensor) -> Tensor:
    """(..., d) → (...): what a token's error counts. Plain squares would leave the fit to massive activations alone,
    relative ones would let each of the few tokens that have them count no more than any other.
    """
    norm: Tensor = torch.linalg.vector_norm(target.float(), dim=-1)
    return 1 / norm.clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Solution:
    """change: (k, d), float64, to be added to the matrix. ridge: λ, None if nothing was better than no change.

    before, after: ‖A·change - E‖² / ‖E‖² on the held-out tokens is after / before; both are means a token. folded: as
    much of the folded map the ridge is toward, 0 for the matrix as it is.
    """

    change: Tensor
    ridge: float | None
    before: float
    after: float
    folded: float = 0.0


def solve(fit: Gram, held_out: Gram, ridges: Sequence[float] = RIDGES, matrix: Tensor | None = None) -> Solution:
    """argmin ‖A·X - E‖² + λ·m·‖X - s·F‖², m the mean of diag(AᵀA), with the λ of `ridges` that `held_out` likes best.

    F = 0, but where few tokens are fitted (`few`) the change that folds a map into `matrix` W (k, d) (`folded_change`),
    and the share s of it, 0 to 1, is the one that `held_out` likes best, exactly: so on these tokens the solution is
    never behind the ridge toward W, nor behind W + F itself.

    A Cholesky factorisation a λ, which serves both ends of s: one eigendecomposition would serve all λ, but costs about
    seventy times as much. Not all are tried: from the last but one, near which it mostly lies, the error is followed to
    where it is least.
    """
    best, ridge, share = torch.zeros_like(fit.cross), None, 0.0
    least = held_out.squares
    errors: dict[int, tuple[float, float]] = {}  # toward the matrix as it is, and toward the best s
    folded = folded_change(fit, held_out, matrix) if matrix is not None and few(fit.tokens, len(fit.inputs)) else None
    if folded is not None and held_out.error(folded) < least:
        best, ridge, share, least = folded, ridges[-1], 1.0, held_out.error(folded)

    def error(at: int, end: int) -> float:
        nonlocal best, ridge, share, least
        if at not in range(len(ridges)):
            return math.inf
        if at not in errors:
            errors[at] = math.inf, math.inf
            factor = damped_factor(fit, ridges[at])
            if factor is not None:
                plain, found, change, some = _toward(fit, held_out, factor, ridges[at], folded)
                errors[at] = plain, found
                if found < least:
                    best, ridge, share, least = change, ridges[at], some, found
        return errors[at][end]

    at = max(0, len(ridges) - 2)
    if math.isinf(error(at, 0)):  # sums of so few directions that it takes the last one
        at += 1
    for end in (0,) if folded is None else (0, 1):
        at = min(errors, key=lambda one: errors[one][end], default=at) if end else at
        for way in (-1, 1):
            while error(at + way, end) < error(at, end):
                at += way
    tokens = max(1, held_out.tokens)
    return Solution(best, ridge, held_out.squares / tokens, least / tokens, share)


def _toward(
    fit: Gram, held_out: Gram, factor: Tensor, ridge: float, folded: Tensor | None
) -> tuple[float, float, Tensor, float]:
    """(held-out error of the ridge toward the matrix as it is, of that toward the best s, its X, that s), for one λ.

    X = (AᵀA + λ·m)⁻¹(AᵀE + λ·m·s·F) is linear in s, so that the error is a parabola.
    """
    change = _through(factor, fit.cross)
    if folded is None:
        error = held_out.error(change)
        return error, error, change, 0.0
    more = _through(factor, folded).mul_(ridge * fit.inputs.diagonal().mean())
    made, made_more = held_out.inputs @ change, held_out.inputs @ more
    error = held_out.squares + float(((made - 2 * held_out.cross) * change).sum())
    slope, bend = float(((made - held_out.cross) * more).sum()), float((made_more * more).sum())
    share = min(1.0, max(0.0, -slope / bend)) if bend > 0 else 0.0
    return error, error + share * (2 * slope + share * bend), change.add_(more, alpha=share), share


def folded_change(fit: Gram, held_out: Gram, matrix: Tensor) -> Tensor:
    """F (k, d) = W·(T - 1), T (d, d) the map of what W = `matrix` (k, d) makes that meets the errors best, by ridge
    regression toward 1: d unknowns an output where W has k, so that few tokens tell them.
    """
    own = exact(matrix)
    return own @ solve(fit.through(own), held_out.through(own)).change


def damped_factor(fit: Gram, ridge: float) -> Tensor | None:
    """(k, k), float64: the lower Cholesky factor of AᵀA + λ·m, by columns, which LAPACK factors in place.

    None where rounding leaves the sums without a positive definite matrix: few tokens, all of one direction.
    """
    factor = fit.inputs.clone().mT
    factor.diagonal().add_(ridge * fit.inputs.diagonal().mean())
    failed = torch.empty((), dtype=torch.int32, device=factor.device)
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    if failed or not torch.isfinite(factor).all():
        return None
    return factor


def _through(factor: Tensor, right: Tensor) -> Tensor:
    """(k, d): X of L·Lᵀ·X = `right`. `torch.cholesky_solve` does the same with a copy of L, (k, k)."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solved


def fold(fit: Gram, held_out: Gram, matrix: Tensor) -> Solution:
    """The change of `matrix` W (k, d) to W·T, T (d, d) = argmin ‖M·T - (E + M)‖², M = A·W the MLP's output.

    ReplaceMe's least squares (arXiv 2505.02819, equation 5), folded. Of directions that M never took, the solution of
    smallest norm.
    """
    own = exact(matrix)
    outputs, cross = own.T @ fit.inputs @ own, own.T @ (fit.inputs @ own + fit.cross)
    change = own @ (torch.linalg.pinv(outputs, hermitian=True, rtol=1e-12) @ cross) - own
    tokens = max(1, held_out.tokens)
    return Solution(change, None, held_out.squares / tokens, held_out.error(change) / tokens)
