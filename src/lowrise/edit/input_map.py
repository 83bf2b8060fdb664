"""What a layer reads, led back to what it was trained to read: a map before its first matrices."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from torch import Tensor, nn

from lowrise.edit.gram import Solution, gather, solve, weight_of
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.exact import exact
from lowrise.model.experts import Experts
from lowrise.model.matrices import Matrix, input_of


def fit_input_map(context: LayerContext, what: Hashable, matrices: tuple[Matrix, ...]) -> Solution:
    """T, from what `matrices` are given to what is stored as `what`, the input of dense ones."""
    return fit_read_map(context, what, matrices[0].module, raw=context.dense_layer.reads_raw)


def fit_read_map(context: LayerContext, what: Hashable, module: nn.Module, *, raw: bool) -> Solution:
    """The same from what `module` is given. raw: whether that is the stream as it is, with no norm between."""

    def tokens() -> Iterator[tuple[bool, Tensor, Tensor, Tensor | None]]:
        for number, held, calls in context.batches():
            given = input_of(module, context.run(number, calls)).float().flatten(0, -2)
            wanted = context.get(what, number).float().flatten(0, -2)
            yield held, given, wanted - given, weight_of(wanted) if raw else None

    width = context.get(what, 0).shape[-1]  # of several streams, where they are read together
    return solve(*gather((width, width), context.device, tokens()))


def fold_input_map(
    context: LayerContext, matrices: tuple[Matrix, ...], found: Solution, experts: tuple[Experts, ...] = ()
) -> None:
    """(1 + T) folded into `matrices`, and into the first ones of all `experts`."""
    if found.ridge is None:
        return
    for matrix in matrices:
        own = matrix.matrix(context.parameter(matrix.parameter)).float()
        context.update(matrix, own, found.change @ exact(own))
    for one in experts:
        for name in one.reads:
            path = f"{one.path}.{name}"
            weight = context.parameter(path).clone()
            for expert in weight:
                own = (expert if one.input_first else expert.T).float()
                moved = own + (found.change @ exact(own)).float().to(own.device)
                expert.copy_(moved if one.input_first else moved.T)
            context.set_weights({path: weight})
