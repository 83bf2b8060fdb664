"""What a layer reads, led back to what it was trained to read: a map before its first matrices."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from torch import Tensor

from lowrise.edit.gram import Solution, gather, solve, weight_of
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.exact import exact
from lowrise.model.matrices import Matrix, input_of


def fit_input_map(context: LayerContext, what: Hashable, matrices: tuple[Matrix, ...]) -> Solution:
    """T, from what `matrices` are given to what is stored as `what`, the input of dense ones."""
    d, raw = context.decoder.hidden_size, context.dense_layer.reads_raw

    def tokens() -> Iterator[tuple[bool, Tensor, Tensor, Tensor | None]]:
        for number, held, calls in context.batches():
            given = input_of(matrices[0].module, context.run(number, calls)).float().flatten(0, -2)
            wanted = context.get(what, number).float().flatten(0, -2)
            yield held, given, wanted - given, weight_of(wanted) if raw else None

    return solve(*gather((d, d), context.decoder.device, tokens()))


def fold_input_map(context: LayerContext, matrices: tuple[Matrix, ...], found: Solution) -> None:
    """(1 + T) folded into `matrices`."""
    if found.ridge is None:
        return
    for matrix in matrices:
        own = matrix.matrix(context.parameter(matrix.parameter)).float()
        context.update(matrix, own, found.change @ exact(own))
