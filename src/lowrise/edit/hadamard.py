"""An orthogonal matrix that spreads every channel over all of them: a Hadamard matrix where one is easily made.

Hadamard matrices of order d by the constructions of Sylvester (doubling) and Paley (orders q + 1, q a prime 4n + 3, and
2·(q + 1), q a prime 4n + 1). Together they have the hidden sizes in use, among them 576 = 36·16, 896 = 28·32 and
5376 = 84·64. Where they have none, as for odd d, a random orthogonal matrix is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

SEED = 0


def rotation(d: int) -> tuple[Tensor, bool]:
    """(H (d, d), float64, with H·Hᵀ = 1; whether it is a Hadamard matrix over √d or a random one, of a fixed seed)."""
    signs = hadamard(d)
    if signs is not None:
        return signs.double() / d**0.5, True
    drawn = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    q, r = torch.linalg.qr(drawn)
    return q * r.diagonal().sign(), False  # the signs make it uniform over all orthogonal matrices


def hadamard(d: int) -> Tensor | None:
    """Entries ±1, (d, d), int64, H·Hᵀ = d·1; None where the constructions here have no such order."""
    order, doublings = d, 0
    bases = []
    while True:  # by the largest base last: of small ones the search for a prime is over first
        bases.append((order, doublings))
        if order % 2:
            break
        order, doublings = order // 2, doublings + 1
    for order, doublings in reversed(bases):
        signs = _base(order)
        if signs is not None:
            for _ in range(doublings):
                signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
            return signs
    return None


def _base(order: int) -> Tensor | None:
    if order in (1, 2):
        return torch.tensor([[1, 1], [1, -1]])[:order, :order]
    if order % 4:
        return None
    if _is_prime(order - 1):  # 4n + 3, for the order is a multiple of 4
        return torch.eye(order, dtype=torch.int64) + _bordered(order - 1, -1)
    q = order // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        one, zero = torch.tensor([[1, 1], [1, -1]]), torch.tensor([[1, -1], [-1, -1]])
        return torch.kron(_bordered(q, 1), one) + torch.kron(torch.eye(q + 1, dtype=torch.int64), zero)
    return None


def _bordered(q: int, corner: int) -> Tensor:
    """(q + 1, q + 1): Jacobsthal's matrix χ(j - i) of a prime q, ones above it, a column of `corner` beside it."""
    squares = {x * x % q for x in range(1, q)}
    character = torch.tensor([0, *(1 if x in squares else -1 for x in range(1, q))])
    numbers = torch.arange(q)
    made = torch.zeros(q + 1, q + 1, dtype=torch.int64)
    made[0, 1:], made[1:, 0] = 1, corner
    made[1:, 1:] = character[(numbers - numbers.unsqueeze(1)) % q]
    return made


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))
