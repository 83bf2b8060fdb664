"""Refit: every matrix of the student's layers solved anew, so that it goes through the dense model's states.

Let the student's layer be handed h̃ where the dense model has h. Four ridge regressions, one after the other, each on
the layer as the ones before left it. Its READING matrices, of attention and then of the MLP, are given x̃, some norm of
the stream, where the dense ones are given x: with (1 + T) between, T (d, d) = argmin ‖X̃·T - (X - X̃)‖², folded into
them, they read nearly what they used to (where no norm comes before them, as in OLMo-2, tokens count 1/‖x‖). Its
WRITING matrices, attention's and then the MLP's, make up for what is still missing of h[stop] of the dense model, stop
the next layer that is kept: with A the inputs of W, out what leaves the layer and E = h[stop] - out, the change of W is
argmin Σ ‖A·X - E‖²/‖h[stop]‖.

Where a norm or a factor stands between a writing matrix and the stream (Gemma-2 and 3, OLMo-2, Granite), no closed form
solves for it, and the reading matrices are solved alone: they need no more than that the layers above read the stream.

Ridge is toward the matrix as it is, λ chosen on held-out tokens (`edit/gram.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.edit.gram import Solution, solve, two_grams
from lowrise.edit.sweep import Sweep
from lowrise.model.matrices import Matrix, attention_write, captured, input_of, mlp_write, reads, reads_raw


def weight_of(target: Tensor) -> Tensor:
    """(..., d) → (...): what a token's error counts. Plain squares would leave the fit to massive activations alone,
    relative ones would let each of the few tokens that carry them count no more than any other.
    """
    norm: Tensor = torch.linalg.vector_norm(target.float(), dim=-1)
    return 1 / norm.clamp_min(torch.finfo(torch.float32).tiny)


def refit_layer(sweep: Sweep, writes: bool) -> Solution | None:
    """Solve the layer at hand, and both models go on to the next.

    The MLP's solution, but `before` as it was before the attention's; None where only reads are solved, as they are
    without `writes`. Of a token, the dense layer is run once, the student's twice and to its MLP once more: a matrix is
    solved on what the matrices before it have become.
    """
    layer = sweep.layer
    attention, mlp = reads(sweep.decoder, layer)
    for number, _, calls in sweep.batches():
        with captured(attention[0].module) as to_attention, captured(mlp[0].module) as to_mlp:
            h = sweep.dense(number, calls)
        for what, given in (("attention", to_attention), ("mlp", to_mlp)):
            sweep.put(what, number, given[0].view(*h.shape[:-1], -1))
    _refit_reads(sweep, "attention", attention)
    first = _refit_write(sweep, attention_write(sweep.decoder, layer)) if writes else None
    _refit_reads(sweep, "mlp", mlp)
    if first is None:
        sweep.pass_student()
        return None
    last = _refit_write(sweep, mlp_write(sweep.decoder, layer), last=True)
    sweep.up()
    return Solution(last.change, last.ridge, first.before, last.after)


def _refit_reads(sweep: Sweep, what: str, matrices: tuple[Matrix, ...]) -> None:
    """`matrices`, given x̃, read as nearly as they can what the dense ones did; the dense x lie on the shelf."""
    student, layer = sweep.student, sweep.layer
    owns = [matrix.matrix(student.parameter(layer, matrix.parameter)).float() for matrix in matrices]
    d = len(owns[0])
    raw = reads_raw(sweep.decoder, layer)
    fit, held_out = two_grams((d, d), owns[0].device)
    for number, held, calls in sweep.batches():
        given = input_of(matrices[0].module, sweep.run(number, calls)).float().flatten(0, -2)
        wanted = sweep.get(what, number).float().flatten(0, -2)
        (held_out if held else fit).add(given, wanted - given, weight_of(wanted) if raw else None)
    solution = solve(fit, held_out)
    if solution.ridge is None:
        return
    for matrix, own in zip(matrices, owns, strict=True):
        sweep.move(matrix, own, solution.change @ own.to(solution.change))


def _refit_write(sweep: Sweep, write: Matrix, last: bool = False) -> Solution:
    """`write` makes up for what the layer misses of the dense state. last: of the layer, which is left behind then."""
    student, layer = sweep.student, sweep.layer
    own = write.matrix(student.parameter(layer, write.parameter)).float()
    fit, held_out = two_grams(own.shape, own.device)
    for number, held, calls in sweep.batches():
        with captured(write.module) as inputs:
            out = sweep.run(number, calls)()
        target = sweep.get("dense", number)
        (held_out if held else fit).add(inputs[0], target.float() - out.float(), weight_of(target))
        if last:
            sweep.put("inputs", number, inputs[0].view(*out.shape[:-1], -1))
            sweep.put("student", number, out)
    solution = solve(fit, held_out)
    change = sweep.move(write, own, solution.change)
    if last:
        sweep.add_to_student(change)
    return solution
