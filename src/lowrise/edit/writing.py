"""What a layer's MLP writes, solved anew: its last matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lowrise.edit.gram import RIDGES, Gram, Solution, solve, two_grams, weight_of
from lowrise.edit.sweep import Site
from lowrise.model.matrices import captured, mlp_write


def refit_write(site: Site, ridges: Sequence[float] = RIDGES) -> tuple[Solution, Tensor]:
    """The matrix, solved by ridge regression; and its change (k, d) as rounded. On the shelf: as `sums` leaves it."""
    solution = solve(*sums(site, weight_of), ridges)
    return solution, change_write(site, solution)


def sums(site: Site, weight: Callable[[Tensor], Tensor] | None) -> tuple[Gram, Gram]:
    """Of what the matrix is given and of what the layer misses of its target, of fitted and of held-out tokens.

    weight: of targets (..., d), what a token counts (...). On the shelf then lie the matrix's "inputs" and what left
    the layer, "out".
    """
    write = mlp_write(site.decoder, site.layer)
    own = site.student.parameter(site.layer, write.parameter)
    fit, held_out = two_grams(write.matrix(own).shape, own.device)
    for number, held, calls in site.batches():
        with captured(write.module) as inputs:
            out = site.run(number, calls)()
        target = site.target(number)
        counts = None if weight is None else weight(target)
        (held_out if held else fit).add(inputs[0], target.float() - out.float(), counts)
        site.put("inputs", number, inputs[0].view(*out.shape[:-1], -1))
        site.put("out", number, out)
    return fit, held_out


def change_write(site: Site, solution: Solution) -> Tensor:
    """The matrix has the solution's change from now on; by how much, (k, d), once it is rounded."""
    write = mlp_write(site.decoder, site.layer)
    own = write.matrix(site.student.parameter(site.layer, write.parameter)).float()
    return site.move(write, own, solution.change)
