"""What a layer's MLP writes, solved anew: its last matrix, and what a norm behind it scales by.

Behind a norm a solution is a step (`edit/write.py`), taken whole, by half or by a quarter, whichever meets the held-out
tokens first, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lowrise.edit.block_writing import NOTHING, refit_last_write
from lowrise.edit.gram import RIDGES, Gram, Solution, gather, solve, weight_of
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.edit.write import Write, mlp_of
from lowrise.exact import exact_sum
from lowrise.model.matrices import captured
from lowrise.model.structure import known_by_name

STEPS = (1.0, 0.5, 0.25)


def refit_write(context: LayerContext, ridges: Sequence[float] = RIDGES) -> tuple[Solution, Tensor | None]:
    """The MLP's write, solved by ridge regression; and its matrix's change (k, d) as rounded, None where a norm stands
    behind it. In the store: as `runs` leaves it.

    Where the layers are not known by name: the last block's (`edit/block_writing.py`), of which no change is told, and
    nothing is solved where no matrix is known.
    """
    if not known_by_name(context.decoder):
        error = partial(held_out_error, context)
        found = refit_last_write(context, error, ridges) if context.blocks[-1].writes else NOTHING
        return Solution(torch.zeros(0, 0), found.ridge, found.before, found.after), None
    write = mlp_of(context.dense_layer, context.parameter)
    fit, held_out = sums(context, write, weight_of)
    solution = solve(fit, held_out, ridges, write.own)
    if write.norm is None:
        return solution, context.update(write.matrix, write.own, solution.change)
    return step(context, write, fit, solution, lambda: held_out_error(context)), None


def step(context: LayerContext, write: Write, fit: Gram, solution: Solution, error: Callable[[], float]) -> Solution:
    """As much of `solution` as is taken behind a norm, of a `write` of the layer at hand. fit: what it was solved on.

    error: mean error of a held-out token, by the layer as it then is.
    """
    if solution.ridge is None:
        return solution
    before = {name: context.parameter(name) for name in write.paths}
    for share in STEPS:
        context.set_weights(write.moved(share * solution.change, fit, context.decoder.dtype))
        after = error()
        if after < solution.before:
            return Solution(share * solution.change, solution.ridge, solution.before, after)
    context.set_weights(before)
    return Solution(torch.zeros_like(solution.change), None, solution.before, solution.before)


def sums(context: LayerContext, write: Write, weight: Callable[[Tensor], Tensor] | None) -> tuple[Gram, Gram]:
    """Of what the MLP's `write` is given and of what the layer misses of its target, of fitted and of held-out tokens.

    weight: of targets (..., d), what a token counts (...). In the store: as `runs` leaves it.
    """

    def tokens() -> Iterator[tuple[bool, Tensor, Tensor, Tensor | None]]:
        for number, held, inputs, out in runs(context):
            target = context.target(number)
            counts = None if weight is None else weight(target)
            yield held, write.given(inputs), target.float() - out.float(), counts

    return gather(write.own.shape, context.device, tokens())


def runs(context: LayerContext) -> Iterator[tuple[int, bool, Tensor, Tensor]]:
    """(number, whether it is held out, what the MLP's matrix is given, what leaves the layer), of every batch.

    Of those gone through, the latter two then lie in the store as "inputs" and "out".
    """
    write = context.dense_layer.mlp_output
    for number, held, calls in context.batches():
        with captured(write.module) as given:
            out = context.run(number, calls)()
        inputs = given[0].view(*out.shape[:-1], -1)
        context.put("inputs", number, inputs)
        context.put("out", number, out)
        yield number, held, inputs, out


def held_out_error(context: LayerContext, instead: Mapping[str, Tensor] | None = None) -> float:
    """Mean ‖out - h[stop]‖²/‖h[stop]‖ of a held-out token, by the layer as it is, but for what `instead` gives.

    A stream of several is one of their width together.
    """
    behind = ((context.target(number), context.run(number, calls, instead)()) for number, calls in context.held_out())
    return mean_error((target.flatten(2), (target.float() - out.float()).flatten(2)) for target, out in behind)


def errors_of(target: Tensor, missing: Tensor) -> Tensor:
    """(...): ‖E‖²/‖target‖ of each token; both (..., d)."""
    return missing.square().sum(-1) * weight_of(target)


def mean_error(tokens: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Of a token, ‖E‖²/‖target‖. tokens: batches of (target, E), both (..., d)."""
    total, count = 0.0, 0
    for target, missing in tokens:
        errors = errors_of(target, missing)
        total, count = total + float(exact_sum(errors)), count + errors.numel()
    return total / max(1, count)
