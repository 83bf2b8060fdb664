"""What a layer reads, led back to what it was trained to read: a map before its first matrices."""

from __future__ import annotations

from collections.abc import Hashable

from lowrise.edit.gram import Solution, solve, two_grams, weight_of
from lowrise.edit.sweep import Site
from lowrise.exact import exact
from lowrise.model.matrices import Matrix, input_of, reads_raw


def turn(site: Site, what: Hashable, matrices: tuple[Matrix, ...]) -> Solution:
    """T, from what `matrices` are given to what lies on the shelf as `what`, the input of dense ones."""
    d = site.decoder.hidden_size
    raw = reads_raw(site.decoder, site.layer)
    fit, held_out = two_grams((d, d), site.decoder.device)
    for number, held, calls in site.batches():
        given = input_of(matrices[0].module, site.run(number, calls)).float().flatten(0, -2)
        wanted = site.get(what, number).float().flatten(0, -2)
        (held_out if held else fit).add(given, wanted - given, weight_of(wanted) if raw else None)
    return solve(fit, held_out)


def read_through(site: Site, matrices: tuple[Matrix, ...], turn: Solution) -> None:
    """(1 + T) folded into `matrices`."""
    if turn.ridge is None:
        return
    for matrix in matrices:
        own = matrix.matrix(site.student.parameter(site.layer, matrix.parameter)).float()
        site.move(matrix, own, turn.change @ exact(own))
