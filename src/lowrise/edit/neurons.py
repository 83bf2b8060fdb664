"""Neurons of removed layers, transplanted into the layer before the gap in the place of its least useful ones.

Adjacent layers hold twice the neurons that one has room for, and many matter little. Let A (tokens, 2k) be what both
MLPs' output matrices are given: the layer's own neurons and those of a dropped one, the latter on the layer's own
stream, turned into the dropped layer's input by a map T as in `edit/input_map.py`. Of the ridge regression of A toward
h[stop] neurons are taken out as optimal brain surgery does (Hassibi and Stork, NIPS 1992): always those whose absence
costs least when all others make up for it, until k are left. They become the layer's MLP.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from lowrise.edit.gram import RIDGES, Gram, damped_factor, solve, weight_of
from lowrise.edit.input_map import fit_input_map
from lowrise.edit.layerwise_pass import LayerContext
from lowrise.exact import exact
from lowrise.heap import BETWEEN_STEPS, give_back
from lowrise.model.layer import Layer
from lowrise.model.matrices import captured, input_of
from lowrise.model.neurons import chosen

WHILE_CHOOSING = 0.1  # λ while neurons are chosen; what the layer then writes is solved with every λ
STEPS = 16  # in which they go: after each, the costs of those that stay are known anew
CHOOSING_TOKENS = 12  # fitted tokens for each neuron that is asked, of which neurons are chosen; the write is of all
# Of one regression that chooses, if possible: two layers' neurons where MLPs are narrow. Sums and inverse grow with its
# square and its cube, and of a wide MLP's neurons those that write least are seldom taken.
MOST_INPUTS = 4096
RANKING_TOKENS = 2048  # that tell, roughly, how much each neuron writes


def blocks(neurons: int) -> list[slice]:
    """The donor's k `neurons`, so many at a time as fit into MOST_INPUTS beside the layer's own, k / 4 at least.

    Blocks are as even as can be: each costs two passes, and the largest decides about memory.
    """
    count = -(-neurons // max(MOST_INPUTS - neurons, -(-neurons // 4)))
    return [slice(neurons * one // count, neurons * (one + 1) // count) for one in range(count)]


def transplant(context: LayerContext, donor: Layer, what: Hashable, ridges: Sequence[float] = RIDGES) -> list[Tensor]:
    """Neurons of the dense layer `donor` go into the student's layer: of every block, what `transplant_block` gives.

    what: where the input of the donor's MLP lies in the store. Where there are several blocks, those that write most
    come first, up to the first of which none is wanted. Of a token, the student's layer is run to its MLP once, and
    twice a block.
    """
    change = fit_input_map(context, what, context.dense_layer.mlp_inputs).change
    turned = donor.with_input_map(change, context.decoder.dtype)
    theirs = {name: value.to(context.device) for name, value in turned.items()}
    neurons = context.dense_layer.neuron_count
    asked = blocks(neurons)
    order = torch.arange(neurons) if len(asked) == 1 else by_what_they_write(context, donor, theirs)
    taken = []
    for block in asked:
        rows = transplant_block(context, donor, order[block].sort().values, theirs, ridges)
        if rows is None:
            break
        taken.append(rows)
    return taken


def by_what_they_write(context: LayerContext, donor: Layer, theirs: Mapping[str, Tensor]) -> Tensor:
    """(k,): `donor`'s neurons j by Σ wₜ·aₜⱼ²·‖w_j‖² of RANKING_TOKENS fitted tokens, the largest first. wₜ, theirs: as
    in `transplant_block`. Memory: what one batch gives them.
    """
    write = context.dense_layer.mlp_write
    lent = write.matrix(donor.parameter(write.parameter)).to(context.device)
    wrote, tokens = torch.zeros(len(lent), device=lent.device), 0
    for number, held, calls in context.batches(context.some(RANKING_TOKENS)):
        if held or tokens >= RANKING_TOKENS:
            continue
        a = input_of(write.module, context.run(number, calls, theirs)).flatten(0, -2).float()
        wrote += weight_of(context.target(number)).flatten() @ a.square()
        tokens += len(a)
    wrote *= lent.float().square().sum(1)
    return wrote.argsort(descending=True, stable=True).cpu()


def transplant_block(
    context: LayerContext, donor: Layer, asked: Tensor, theirs: Mapping[str, Tensor], ridges: Sequence[float] = RIDGES
) -> Tensor | None:
    """The student's layer takes over neurons of the dense layer `donor`; (k,) that it then has, its own counted first.

    asked: which of `donor`'s, ascending. theirs: what leads into them, with an input map so that they can be given what
    the student's MLP is. None, and nothing changes, where the neurons chosen do not meet held-out tokens better than
    its own. Memory: the sums of all these neurons and, while they go, two matrices of that size.
    """
    layer = context.dense_layer
    write = layer.mlp_write
    own = write.matrix(context.parameter(write.parameter)).float()
    lent = write.matrix(donor.parameter(write.parameter)).float().to(own.device)
    lent = lent if len(asked) == len(lent) else lent[asked]
    k, d = own.shape
    numbers = context.some(CHOOSING_TOKENS * (k + len(lent)))

    def sums(*, held: bool) -> Gram:
        found = Gram(k + len(lent), d, own.device)
        for number, _, calls in context.batches(numbers & {*context.numbers(held=held)}):
            with captured(write.module) as inputs:
                out = context.run(number, calls)().float()
            a = (
                inputs[0].flatten(0, -2),
                input_of(write.module, context.run(number, calls, theirs)).flatten(0, -2)[:, asked],
            )
            target = context.target(number)
            missing = target.float() - out - (a[1].float() @ lent).view_as(out)
            found.add(torch.cat(a, 1), missing, weight_of(target))
        return found

    fit = sums(held=False)
    both = torch.cat([own, lent])
    give_back(BETWEEN_STEPS)  # what batches took: the sums' inverse is as large as they are
    matrix = exact(both)
    alone = torch.arange(k, device=matrix.device)
    rows = obs_selection(fit, matrix, k)
    if rows is None:
        return None
    fits = [fit.keeping(these, matrix) for these in (alone, rows)]
    del fit  # those of held-out tokens are as large
    held_out = sums(held=True)
    plain, solution = (
        solve(some, held_out.keeping(these, matrix), ridges, both[these.to(both.device)])
        for some, these in zip(fits, (alone, rows), strict=True)
    )
    if torch.equal(rows, alone) or not solution.after < plain.after:  # nor if one is not a number
        return None
    of_both = torch.cat([alone, k + asked.to(alone.device)])[rows]
    input_first = layer.neuron_parameters.items()
    context.set_weights(
        {name: chosen(context.parameter(name), theirs[name], axis, of_both, k) for name, axis in input_first}
    )
    context.update(write, both[rows.to(both.device)], solution.change)
    return rows


def obs_selection(fit: Gram, matrix: Tensor, keep: int) -> Tensor | None:
    """(keep,): rows of `matrix` (k, d) that stay, ascending; the sums are of what is missing with all of them there.

    With C = AᵀA + λ·m and w the regression of all rows that are left, the loss of row j costs ‖w_j‖² / (C⁻¹)_jj. None
    where `damped_factor` is.
    """
    factor = damped_factor(fit, WHILE_CHOOSING)
    if factor is None:
        return None
    inverse = torch.cholesky_inverse(factor, out=factor)
    del factor  # of the rows that go, too
    solved = matrix + inverse @ fit.cross
    rows = torch.arange(len(matrix), device=matrix.device)
    a_step = -(-(len(rows) - keep) // STEPS)
    while len(rows) > keep:
        cost = solved.square().sum(1) / inverse.diagonal()
        stays = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        stays[cost.argsort()[: min(a_step, len(rows) - keep)]] = False
        at, gone = stays.nonzero(), (~stays).nonzero()
        across, left = inverse[at, gone.T], len(at)
        made_up = torch.linalg.solve(inverse[gone, gone.T], torch.cat([across.T, solved[~stays]], 1))
        solved = solved[stays].addmm_(across, made_up[:, left:], alpha=-1)
        inverse = inverse[at, at.T].addmm_(across, made_up[:, :left], alpha=-1)
        rows = rows[stays]
    return rows
