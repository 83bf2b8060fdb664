"""Refit: every matrix of the student's layers solved anew, so that it goes through the dense model's states.

Let the student's layer be handed h̃ where the dense model has h. Ridge regressions, one after the other, each on the
layer as the ones before left it. Its READING matrices, of attention and then of the MLP, are given x̃, some norm of
the stream, where the dense ones are given x: with (1 + T) between, T (d, d) = argmin ‖X̃·T - (X - X̃)‖², folded into
them, they read nearly what they used to (where no norm comes before them, as in OLMo-2, tokens count 1/‖x‖). Its
WRITING matrices make up for what is missing of a state of the dense model: with A the inputs of W and E what is
missing behind it, the change of W is argmin Σ ‖A·X - E‖²/‖h‖, h the state that is aimed at.

The MLP's write aims at h[stop], stop the next layer that is kept. Attention's aims at the dense layer's stream behind
its attention; but before a gap, where there is no such state, at h[stop] too, solved together with the MLP's write,
whose part is not kept: what the MLP can make up for is not attention's to learn. Before a gap the layer also takes over
neurons of those that go (`edit/neurons.py`), and then block reconstruction trains all its matrices
(`edit/block_reconstruction.py`).

Where a norm stands between a writing matrix and the stream (Gemma-2 and 3, OLMo-2, GLM-4), the solution is a step,
taken as far as held-out tokens like it (`edit/write.py`), and no neurons move. Where something else stands there, the
reading matrices are solved alone, and a layer before a gap is fitted by block reconstruction as everywhere.

Ridge is toward the matrix as it is, λ chosen on held-out tokens (`edit/gram.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lowrise.edit.block_reconstruction import reconstruct_block
from lowrise.edit.calibration_size import note_on_size
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.gram import Gram, Solution, gather, solve, weight_of
from lowrise.edit.input_map import fit_input_map, fold_input_map
from lowrise.edit.layerwise import repair_layers
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.neurons import transplant
from lowrise.edit.refit_blocks import refit_blocks
from lowrise.edit.repair import gaps
from lowrise.edit.write import Write, attention_of, mlp_of
from lowrise.edit.writing import mean_error, refit_write, step
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.matrices import captured, input_of
from lowrise.model.neurons import neurons_apart
from lowrise.model.refittable import refit_support
from lowrise.model.same_architecture import same_neurons
from lowrise.model.structure import known_by_name

CHOOSING_RIDGES = (1e-1, 1.0)  # λ while neurons are taken over, near which it mostly lies; the write is solved later


def repair(task: RepairTask) -> Repaired:
    """Solve the matrices of every layer from the first gap up anew, from the bottom up; a Fit for each.

    Dense model and student go through the layers side by side, and a layer that both have passed is the student's from
    then on. On disk lie, of all tokens, one state of both, the inputs of one layer's matrices and those of the MLPs in
    the gap behind it; in memory one batch, two matrices' sums, one layer's new parameters, while neurons move four
    float64 matrices of up to (2k, 2k), k neurons a layer (`edit/neurons.py`), and then, with Adam's moments, a layer
    six times in float32 (`edit/block_reconstruction.py`).
    """
    student = task.student
    bottom, found = student.layers[0], gaps(student)
    if not found and bottom == 0:
        return Repaired([])
    start = bottom if bottom > 0 else found[0][0]
    passed = [layer for layer in student.layers if layer >= start]
    note = note_on_size(student.decoder, task.windows, task.held_out)
    if note is not None:
        task.progress.say(note)
    writes = refit_support(student.decoder)
    return Repaired(repair_layers(task, passed, lambda layerwise: refit_layer(layerwise, writes), mixed=True))


def refit_network(fit: Gram, held_out: Gram, matrix: Tensor) -> Solution:
    """The change of a trained network's last matrix."""
    return solve(fit, held_out, matrix=matrix)


def refit_layer(layerwise: LayerwisePass, writes: bool) -> Fit:
    """Solve the layer at hand, and both models go on to the next.

    writes: whether what layers write can be solved (`refit_support`); then the layer may take over neurons of those
    that are gone behind it, one after the other until one has nothing to give. Returned is what came of the MLP's
    write, but before a gap with `before` as it was before the attention's; without `writes`, where only reads are
    solved, what came of block reconstruction. Of a token, the dense layer is run once, the student's twice and to its
    MLP twice more; before a gap also once and twice a block of neurons for every donor that is asked, and once an epoch
    of block reconstruction: a matrix is solved on what the matrices before it have become.
    """
    if not known_by_name(layerwise.decoder):
        return refit_blocks(layerwise)
    layer, stop, dense = layerwise.layer, layerwise.stop, layerwise.dense_layer
    attention, mlp = dense.attention_inputs, dense.mlp_inputs
    donors = _donors(layerwise) if writes else []
    _pass_dense(layerwise, writes, donors)
    fold_input_map(layerwise, attention, fit_input_map(layerwise, "attention", attention))
    first = _refit_attention_write(layerwise) if writes else None
    layerwise.keep_attention()
    fold_input_map(layerwise, mlp, fit_input_map(layerwise, _mlp_of(layerwise, dense), mlp))
    if first is None:
        layerwise.forget_attention()
        met = reconstruct_block(layerwise) if layerwise.gap else None
        layerwise.pass_student()
        if met is None:
            return Fit(layer, stop, None, None, None, written=False)
        return Fit(layer, stop, None, *met, descended=met[1] < met[0], written=False)
    others = torch.zeros(dense.neuron_count, dtype=torch.bool)  # whether a neuron is another layer's
    for donor in donors:
        taken = transplant(layerwise, donor, _mlp_of(layerwise, donor), CHOOSING_RIDGES)
        if not taken:
            break
        for rows in taken:
            others = torch.cat([others, torch.ones_like(others)])[rows.cpu()]
    solved = None if others.any() else refit_write(layerwise)  # neurons that were chosen come with their write solved
    layerwise.forget_attention()
    descended = False
    if layerwise.gap:
        before, after = reconstruct_block(layerwise)
        descended = after < before
    if solved is None or descended:
        solved = refit_write(layerwise)
    last, change = solved
    if change is None:
        layerwise.propagate()
    else:
        layerwise.leave_layer(change)
    before = first.before if layerwise.gap else last.before
    layerwise.advance()
    return Fit(layer, stop, last.ridge, before, last.after, int(others.sum()), descended)


def _donors(layerwise: LayerwisePass) -> list[Layer]:
    """Of the layers that are gone right behind the one at hand, those whose neurons it could take over."""
    between = range(layerwise.layer + 1, layerwise.stop) if layerwise.gap and neurons_apart(layerwise.decoder) else ()
    return [other for other in map(layerwise.decoder.layer, between) if same_neurons(layerwise.dense_layer, other)]


def _mlp_of(layerwise: LayerwisePass, layer: Layer) -> Hashable:
    """Where in the store the input of a dense layer's MLP lies: the same few places for every layer of the student."""
    return "mlp", layer.index - layerwise.layer


def _pass_dense(layerwise: LayerwisePass, writes: bool, donors: list[Layer]) -> None:
    """The dense model to h[stop]. In the store lies what this layer's matrices and the donors' MLPs were given, and,
    if no gap follows, the stream behind this layer's attention, but for its bias.
    """
    layer = layerwise.dense_layer
    readers: dict[Hashable, nn.Module] = {"attention": layer.attention_inputs[0].module}
    readers |= {_mlp_of(layerwise, one): one.mlp_inputs[0].module for one in (layer, *donors)}
    write = attention_of(layer, layer.parameter) if writes and not layerwise.gap else None
    for number, _, calls in layerwise.batches():
        with ExitStack() as stack:
            given = {what: stack.enter_context(captured(module)) for what, module in readers.items()}
            if write is not None:
                entering = stack.enter_context(captured(layer.module))
                heads = stack.enter_context(captured(write.matrix.module))
            h = layerwise.dense(number, calls)
        for what, (value,) in given.items():
            layerwise.put(what, number, value.view(*h.shape[:-1], -1))
        if write is not None:
            wrote = write.given(heads[0].flatten(0, -2)).float() @ write.own
            layerwise.put("attended", number, entering[0] + wrote.to(h.dtype).view_as(h))


def _refit_attention_write(layerwise: LayerwisePass) -> Solution:
    write = attention_of(layerwise.dense_layer, layerwise.parameter)
    beside = mlp_of(layerwise.dense_layer, layerwise.parameter) if layerwise.gap else None
    k, d = write.own.shape

    def tokens() -> Iterator[tuple[bool, Tensor, Tensor, Tensor]]:
        for number, held, calls in layerwise.batches():
            a, target, missing = _behind_attention(layerwise, write, beside, number, calls)
            yield held, a, missing, weight_of(target)

    fit, held_out = gather((k if beside is None else k + len(beside.own), d), write.own.device, tokens())
    solution = solve(fit, held_out)
    if write.norm is None:
        layerwise.update(write.matrix, write.own, solution.change[:k])
        return solution

    def error() -> float:
        now = attention_of(layerwise.dense_layer, layerwise.parameter)
        return mean_error(_behind_attention(layerwise, now, beside, *each)[1:] for each in layerwise.held_out())

    alone = Solution(solution.change[:k], solution.ridge, solution.before, solution.after)
    return step(layerwise, write, fit, alone, error)


def _behind_attention(
    layerwise: LayerwisePass, write: Write, beside: Write | None, number: int, calls: list[LayerArguments]
) -> tuple[Tensor, Tensor, Tensor]:
    """(what attention's `write`, and the MLP's `beside` it, is given, the target, what is missing of it), of a batch.

    beside: None where no gap follows, and the target is then the stream behind attention.
    """
    if beside is not None:
        with captured(write.matrix.module) as heads, captured(beside.matrix.module) as neurons:
            out = layerwise.run(number, calls)().float()
        inputs = (one.given(each[0].flatten(0, -2)) for one, each in ((write, heads), (beside, neurons)))
        a, target = torch.cat([*inputs], 1), layerwise.target(number)
    else:
        with captured(layerwise.dense_layer.module) as entering:
            a = write.given(input_of(write.matrix.module, layerwise.run(number, calls)).flatten(0, -2))
        target = layerwise.get("attended", number)
        out = entering[0].float() + (a.float() @ write.own).view_as(target)
    return a, target, target.float() - out
