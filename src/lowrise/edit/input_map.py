"""What a layer reads, led back to what it was trained to read: a map before its first matrices."""

from __future__ import annotations

from collections.abc import Hashable

from lowrise.edit.gram import Solution, solve, two_grams, weight_of
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.exact import exact
from lowrise.model.matrices import Matrix, input_of


def turn(context: LayerContext, what: Hashable, matrices: tuple[Matrix, ...]) -> Solution:
    """T, from what `matrices` are given to what lies on the shelf as `what`, the input of dense ones."""
    d = context.decoder.hidden_size
    raw = context.dense_layer.reads_raw
    fit, held_out = two_grams((d, d), context.decoder.device)
    for number, held, calls in context.batches():
        given = input_of(matrices[0].module, context.run(number, calls)).float().flatten(0, -2)
        wanted = context.get(what, number).float().flatten(0, -2)
        (held_out if held else fit).add(given, wanted - given, weight_of(wanted) if raw else None)
    return solve(fit, held_out)


def fold_input_map(context: LayerContext, matrices: tuple[Matrix, ...], turn: Solution) -> None:
    """(1 + T) folded into `matrices`."""
    if turn.ridge is None:
        return
    for matrix in matrices:
        own = matrix.matrix(context.parameter(matrix.parameter)).float()
        context.update(matrix, own, turn.change @ exact(own))
