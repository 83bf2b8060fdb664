"""What a layer's MLP writes, solved anew: its last matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from lowrise.edit.gram import RIDGES, Gram, Solution, solve, two_grams, weight_of
from lowrise.edit.sweep import Site
from lowrise.model.matrices import captured, mlp_write


def refit_write(site: Site, ridges: Sequence[float] = RIDGES) -> tuple[Solution, Tensor]:
    """The matrix, solved by ridge regression; and its change (k, d) as rounded. On the shelf: as `runs` leaves it."""
    write = mlp_write(site.decoder, site.layer)
    own = write.matrix(site.student.parameter(site.layer, write.parameter)).float()
    solution = solve(*sums(site, own.shape, weight_of), ridges)
    return solution, site.move(write, own, solution.change)


def sums(site: Site, shape: Sequence[int], weight: Callable[[Tensor], Tensor] | None) -> tuple[Gram, Gram]:
    """Of what the matrix (k, d) is given and of what the layer misses of its target, of fitted and of held-out tokens.

    weight: of targets (..., d), what a token counts (...). On the shelf: as `runs` leaves it.
    """
    fit, held_out = two_grams(shape, site.decoder.device)
    for number, held, inputs, out in runs(site):
        target = site.target(number)
        counts = None if weight is None else weight(target)
        (held_out if held else fit).add(inputs, target.float() - out.float(), counts)
    return fit, held_out


def runs(site: Site) -> Iterator[tuple[int, bool, Tensor, Tensor]]:
    """(number, whether it is held out, what the matrix is given, what leaves the layer), of every batch.

    Of those gone through, the latter two then lie on the shelf as "inputs" and "out".
    """
    write = mlp_write(site.decoder, site.layer)
    for number, held, calls in site.batches():
        with captured(write.module) as given:
            out = site.run(number, calls)()
        inputs = given[0].view(*out.shape[:-1], -1)
        site.put("inputs", number, inputs)
        site.put("out", number, out)
        yield number, held, inputs, out
