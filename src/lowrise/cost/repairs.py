"""How much work each repair does, layer by layer, as the docstrings in `edit/` have it.

A function takes a `Job` and answers its `Stage`s; a row of `methods/rows.py` names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowrise.cost.job import Job, adam, batch_bytes, gram, gram_bytes, passes, solve, to_mlp
from lowrise.cost.shape import ModelShape
from lowrise.cost.work import Stage, Work
from lowrise.edit import cosine_map
from lowrise.edit.block_reconstruction import EPOCHS, STEP_TOKENS, STEPS
from lowrise.edit.neurons import CHOOSING_TOKENS, blocks
from lowrise.edit.refit import CHOOSING_RIDGES
from lowrise.methods import load, method

TRIES = 4  # λ of seven that are tried, mostly
_HALF_SHORT = 0.55  # of a window's length: the mean length of rows where half of the windows are cut to 64 tokens
_THEIRS = 1.67  # runs of an MLP for a block of a donor's neurons: one whole, one up to its last matrix
_EIGEN = 25.0  # times d³: operations of an eigendecomposition, which a pseudo-inverse takes


def refit(job: Job) -> list[Stage]:
    """`edit/refit.repair`: all layers from the first gap up."""
    shape = job.shape
    length = _HALF_SHORT * job.length
    work = refit_work(job, job.fitted, job.held_out, length, job.gaps)
    left = shape.layers - job.taken - max(0, job.gaps[0][0] - 1)
    between = max(stop - start for start, stop in job.gaps)
    states = job.tokens * shape.compute * shape.hidden
    work += Work(states=left * 14 * states, written=left * shape.layer_bytes)
    inner = job.tokens * shape.compute * (shape.inner + shape.attention_inputs)
    memory = max(sums_bytes(shape, moves=shape.moves), 6 * 4 * shape.layer_parameters) + shape.layer_bytes
    disk = (7 + between) * states + inner + left * shape.layer_bytes
    return [Stage("repair", work, memory + batch_bytes(job, length), disk=disk)]


def refit_work(
    job: Job,
    fit: float,
    held: float,
    length: float,
    gaps: Sequence[tuple[int, int]],
    *,
    from_start: bool = False,
    epochs: int = EPOCHS,
) -> Work:
    """Of so many fitted and held-out tokens. from_start: the states before the first gap are at hand. epochs: of block
    reconstruction, at most.
    """
    shape, tokens = job.shape, fit + held
    gone = {layer for start, stop in gaps for layer in range(start, stop)}
    first = max(0, gaps[0][0] - 1)
    work = Work() if from_start else passes(tokens, first, length)
    for layer in range(first, shape.layers):
        if layer in gone:
            continue
        between = next((stop - start for start, stop in gaps if start == layer + 1), 0)
        work += refit_layer(shape, fit, held, length, between, epochs)
    return work


def refit_layer(shape: ModelShape, fit: float, held: float, length: float, between: int, epochs: int) -> Work:
    """`edit/refit.refit_layer`. between: layers that are gone right behind it. epochs: most of block reconstruction.

    From its attention's write on, what attention makes is at hand.
    """
    d, k, heads, tokens = shape.hidden, shape.inner, shape.attention_inputs, fit + held
    reads = gram(tokens, d, d) + solve(d, d, TRIES)
    folded = Work(solves=2 * d * d * (shape.head_size * (shape.heads + 2 * shape.key_heads) + 2 * k))
    beside = heads + (k if between else 0)
    work = passes(tokens, 1 + between, length) + 2 * reads + folded
    work += (
        passes(tokens, 1, length) + gram(tokens, beside, d) + solve(beside, d, TRIES) + to_mlp(shape, tokens, length)
    )
    last = through_mlp(shape, tokens)
    if between:
        if shape.moves:
            work += between * transplant(shape, fit, held, len(CHOOSING_RIDGES))
        work += reconstruction(shape, fit, held, length, epochs)
        last = passes(tokens, 1, length)
    return work + last + gram(tokens, k, d) + solve(k, d, TRIES) + Work(sums=2 * tokens * k * d)


def through_mlp(shape: ModelShape, tokens: float) -> Work:
    """Tokens through one layer whose attention is at hand."""
    return Work(forward=(1 - shape.attention_share) * tokens, visits=1)


def write_anew(shape: ModelShape, fit: float, held: float, length: float, tries: float) -> Work:
    """`edit/writing.refit_write`."""
    tokens, k, d = fit + held, shape.inner, shape.hidden
    return passes(tokens, 1, length) + gram(tokens, k, d) + solve(k, d, tries)


def transplant(shape: ModelShape, fit: float, held: float, tries: float) -> Work:
    """`edit/neurons.transplant` of one donor, attention at hand: an input map, and for every block of its neurons two
    runs of the MLP, the sums of both layers' neurons on enough tokens, their selection, and what is then written solved
    with them and without.
    """
    d, k, tokens = shape.hidden, shape.inner, fit + held
    work = gram(tokens, d, d) + solve(d, d, TRIES) + Work(solves=4 * d * d * k)
    for block in blocks(k):
        both = k + int(block.stop) - int(block.start)
        some = min(fit, CHOOSING_TOKENS * both) + held
        factored = both**3 + 2 * both * both * d
        left = 2 * (both - k) * ((both + k) / 2) ** 2 * 1.05
        kept = 8 * k * (both - k) * d
        work += _THEIRS * through_mlp(shape, some) + gram(some, both, d) + Work(solves=factored + left + kept)
        work += 2 * solve(k, d, tries)
    return work


def reconstruction(shape: ModelShape, fit: float, held: float, length: float, most: int = EPOCHS) -> Work:
    """`edit/block_reconstruction.reconstruct_block`: epochs of one layer's gradients, and its held-out error. most:
    epochs; fewer where they make enough steps.
    """
    an_epoch = max(1.0, fit / STEP_TOKENS)
    epochs = min(most, EPOCHS, max(2, math.ceil(STEPS / an_epoch)))
    steps = adam(epochs * an_epoch, shape.layer_parameters)
    return Work(backward=epochs * fit, visits=1) + steps + (epochs + 1) * passes(held, 1, length)


def sums_bytes(shape: ModelShape, *, moves: bool) -> float:
    """Of the largest regression of a repair. moves: neurons of two layers are in it."""
    d, k = shape.hidden, shape.inner
    most = gram_bytes(k + shape.attention_inputs, d)
    if not moves:
        return max(most, gram_bytes(k, d))
    both = k + max(int(block.stop) - int(block.start) for block in blocks(k))
    choosing = 3.2 * both * both  # the sums, their inverse and what is left of it after a step
    solving = both * both + 4 * k * k  # held-out sums of all, fitted ones and a solution's of the own k, twice
    return max(most, 8.0 * (max(choosing, solving) + 4 * both * d))


def _up_to_last_gap(job: Job) -> Work:
    return passes(job.tokens, max(stop for _, stop in job.gaps), job.length)


def fold(job: Job) -> list[Stage]:
    """`edit/fold.repair`: both models to the last gap, and a map before each by a pseudo-inverse."""
    d, k, gaps = job.shape.hidden, job.shape.inner, len(job.gaps)
    work = _up_to_last_gap(job) + passes(job.tokens, (gaps - 1) * 3, job.length)
    solved = Work(solves=4 * k * k * d + 4 * k * d * d + _EIGEN * d**3)
    work += gaps * (passes(job.tokens, 1, job.length) + gram(job.tokens, k, d) + solved)
    return [_at_gaps(job, work)]


def fold_cosine(job: Job) -> list[Stage]:
    """`edit/cosine_map.repair`: the map by Adam, over all tokens so many times."""
    d, k, gaps = job.shape.hidden, job.shape.inner, len(job.gaps)
    steps = cosine_map.EPOCHS * job.fitted / cosine_map.STEP_TOKENS
    trained = Work(sums=cosine_map.EPOCHS * job.fitted * (2 * k * d + 6 * d * d)) + adam(steps, d * d)
    work = _up_to_last_gap(job) + gaps * (passes(job.tokens, 1, job.length) + trained)
    return [_at_gaps(job, work)]


def at_boundaries(job: Job) -> list[Stage]:
    """`edit/boundary.boundaries`: one pass of the dense model, and some number or map at each gap."""
    d, gaps = job.shape.hidden, len(job.gaps)
    work = _up_to_last_gap(job) + gaps * Work(solves=4 * job.tokens * d * d + 3 * d**3)
    return [_at_gaps(job, work)]


def _at_gaps(job: Job, work: Work) -> Stage:
    shape = job.shape
    states = job.tokens * shape.compute * shape.hidden
    inner = job.tokens * shape.compute * shape.inner
    memory = gram_bytes(shape.inner, shape.hidden) + batch_bytes(job, job.length)
    return Stage("repair", work + Work(states=6 * states), memory, disk=4 * states + inner)


def stages_of(job: Job) -> list[Stage]:
    """Of the recipe's repair of layers that are dropped or merged; one pass where its row names no cost."""
    if job.recipe.repair == "none":
        return []
    row = method("repair", job.recipe.repair)
    return list(load(row.cost)(job)) if row.cost is not None else [_at_gaps(job, _up_to_last_gap(job))]
