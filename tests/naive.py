"""Closed-form repairs written plainly, every activation stored: what tests hold `edit/repair.py` against."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.gram import RIDGES
from lowrise.edit.neurons import STEPS, WHILE_CHOOSING
from lowrise.edit.repair import gaps
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured
from ridges import HELD_OUT, best_ridge


def through(decoder: Decoder, layers: list[int], tokens: Windows, module: Any) -> tuple[Tensor, Tensor]:
    """(what `module` is given, what leaves the last of `layers`), from the embeddings, all windows at once."""
    h, calls = decoder.embed(tokens.ids)
    with captured(module) as seen:
        for layer in layers:
            h = decoder.step(layer, h, calls)
    return seen[-1].reshape(*h.shape[:-1], -1), h


def apart(ours: Decoder, naive: Decoder, kept: list[int], tokens: Windows) -> float:
    """How far states of the two students are from each other, of tokens that neither may have seen: the largest share
    of any layer. Matrices say less: a layer norm leaves one direction of their inputs, that no token takes, to chance.
    """
    shares, (h, calls), (other, _) = [], ours.embed(tokens.ids), naive.embed(tokens.ids)
    for layer in kept:
        h, other = ours.step(layer, h, calls), naive.step(layer, other, calls)
        shares.append(float((h - other).norm() / other.norm()))
    return float(torch.tensor(shares).max())  # nan if one is


def changed(decoder: Decoder, layer: int, matrix: Any, change: Any) -> None:
    """In place. change: of the matrix (k, d), from the matrix."""
    weight = decoder.layers[layer].get_parameter(matrix.parameter)
    own = matrix.matrix(weight).double()
    weight.copy_(matrix.weight((own + change(own)).float()))


def inputs(decoder: Decoder, layer: int) -> tuple[Any, Any]:
    """The first matrices of its attention and of its MLP."""
    own = decoder.layer(layer)
    return own.attention_inputs, own.mlp_inputs


def naive_fold(decoder: Decoder, kept: list[int], tokens: Windows) -> None:
    targets = dict(decoder.states(tokens.ids))
    for layer, stop in gaps(Student(decoder, kept)):
        write = decoder.layer(layer).mlp_write
        a, h = through(decoder, kept[: kept.index(layer) + 1], tokens, write.module)
        a, e = (part[:-HELD_OUT].flatten(0, 1).double() for part in (a, targets[stop] - h))

        def folded(own: Tensor, a: Tensor = a, e: Tensor = e) -> Tensor:
            return own @ torch.linalg.lstsq(a @ own, e + a @ own).solution - own

        changed(decoder, layer, write, folded)


def naive_refit(decoder: Decoder, kept: list[int], tokens: Windows, blocks: int = 0) -> None:
    """blocks: of a llama, whose neurons move too, each donor asked in so many parts."""
    dense = Decoder(copy.deepcopy(decoder.model))
    targets = dict(dense.states(tokens.ids))
    first = min([*(layer for layer, _ in gaps(Student(decoder, kept))), *([kept[0]] if kept[0] else [])])
    for layer in kept[kept.index(first) :]:
        below = kept[: kept.index(layer) + 1]
        stop = Student(decoder, kept).following(layer)
        for part in (0, 1):
            matrices, same = (inputs(model, layer)[part] for model in (decoder, dense))
            given, _ = through(decoder, below, tokens, matrices[0].module)
            wanted, _ = through(dense, list(range(layer + 1)), tokens, same[0].module)
            t = best_ridge(given, wanted - given)
            for matrix in matrices:
                changed(decoder, layer, matrix, lambda own, t=t: t @ own)
            for other in range(layer + 1, stop) if blocks and part else ():
                asked = naive_order(decoder, dense, below, other, tokens, targets[stop]).tensor_split(blocks)
                took = [naive_transplant(decoder, dense, below, other, asked[0].sort().values, tokens, targets[stop])]
                for one in asked[1:]:
                    if took[-1]:
                        took.append(
                            naive_transplant(decoder, dense, below, other, one.sort().values, tokens, targets[stop])
                        )
                if not took[0]:
                    break
            own = decoder.layer(layer)
            write = own.mlp_write if part else own.attention_output
            a, out = through(decoder, below, tokens, write.module)
            missing, target = targets[stop] - out, targets[stop]
            if part == 0 and stop == layer + 1:
                target = attended(dense, list(range(layer)), layer, tokens)
                missing = target - attended(decoder, below[:-1], layer, tokens)
            elif part == 0:
                a = torch.cat([a, through(decoder, below, tokens, decoder.layer(layer).mlp_write.module)[0]], -1)
            x = best_ridge(a, missing, 1 / target.norm(dim=-1))
            changed(decoder, layer, write, lambda own, x=x: x[: len(own)])


def attended(decoder: Decoder, below: list[int], layer: int, tokens: Windows) -> Tensor:
    """The stream behind the attention of `layer`, but for its bias."""
    write = decoder.layer(layer).attention_output
    h, calls = decoder.embed(tokens.ids)
    for one in below:
        h = decoder.step(one, h, calls)
    with captured(write.module) as seen:
        decoder.step(layer, h, calls)
    return h + seen[0].reshape(*h.shape[:-1], -1) @ write.matrix(decoder.layers[layer].get_parameter(write.parameter))


def turned(decoder: Decoder, dense: Decoder, below: list[int], other: int, tokens: Windows) -> Any:
    """The MLP of dense layer `other`, of a llama, to be given what that of the last of `below` is given."""
    theirs = copy.deepcopy(dense.layers[other].mlp)
    x, _ = through(decoder, below, tokens, decoder.layers[below[-1]].mlp.gate_proj)
    wanted, _ = through(dense, list(range(other + 1)), tokens, dense.layers[other].mlp.gate_proj)
    turn = best_ridge(x, wanted - x).float()
    for matrix in (theirs.gate_proj, theirs.up_proj):
        matrix.weight = torch.nn.Parameter(matrix.weight + matrix.weight @ turn.T)
    return theirs


def naive_order(
    decoder: Decoder, dense: Decoder, below: list[int], other: int, tokens: Windows, target: Tensor
) -> Tensor:
    """Neurons of dense layer `other` by how much they write of fitted tokens, which are few enough to rank on."""
    theirs = turned(decoder, dense, below, other, tokens)
    x, _ = through(decoder, below, tokens, decoder.layers[below[-1]].mlp.gate_proj)
    a = theirs.act_fn(theirs.gate_proj(x)) * theirs.up_proj(x)
    wrote = [
        ((a[:-HELD_OUT, :, j, None] * theirs.down_proj.weight[:, j]).square().sum(-1) / target[:-HELD_OUT].norm(dim=-1))
        for j in range(a.shape[-1])
    ]
    return torch.stack([one.sum() for one in wrote]).argsort(descending=True)


def naive_transplant(
    decoder: Decoder,
    dense: Decoder,
    below: list[int],
    other: int,
    asked: Tensor,
    tokens: Windows,
    target: Tensor,
    ridges: tuple[float, ...] = RIDGES,
) -> bool:
    """Whether the last of `below`, layers of a llama, took over some of the neurons `asked` of dense layer `other`."""
    mlp = decoder.layers[below[-1]].mlp
    x, out = through(decoder, below, tokens, mlp.gate_proj)
    theirs = turned(decoder, dense, below, other, tokens)
    for matrix in (theirs.gate_proj, theirs.up_proj):
        matrix.weight = torch.nn.Parameter(matrix.weight[asked])
    theirs.down_proj.weight = torch.nn.Parameter(theirs.down_proj.weight[:, asked])
    a = torch.cat([one.act_fn(one.gate_proj(x)) * one.up_proj(x) for one in (mlp, theirs)], -1)
    both = torch.cat([mlp.down_proj.weight.T, theirs.down_proj.weight.T]).double()
    k = mlp.down_proj.weight.shape[1]
    before = out - a[..., :k] @ both[:k].float()  # what leaves the layer but for its neurons
    weight = 1 / target.norm(dim=-1)

    root = weight[:-HELD_OUT].double().sqrt().flatten()[:, None]
    fitted = a[:-HELD_OUT].flatten(0, 1).double() * root
    missing = (target - before)[:-HELD_OUT].flatten(0, 1).double() * root - fitted @ both
    damped = fitted.T @ fitted
    damped += WHILE_CHOOSING * damped.diagonal().mean() * torch.eye(len(both), dtype=torch.float64)
    goal = damped @ both + fitted.T @ missing  # whose solution of all rows is the ridge regression of all
    rows, step = torch.arange(len(both)), -(-len(asked) // STEPS)
    while len(rows) > k:
        inverse = torch.linalg.inv(damped[rows][:, rows])
        cost = (inverse @ goal[rows]).square().sum(1) / inverse.diagonal()
        rows = rows[cost.argsort()[min(step, len(rows) - k) :]].sort().values

    def meets(these: Tensor) -> tuple[Tensor, float]:
        change = best_ridge(a[..., these], target - before - a[..., these] @ both[these].float(), weight, ridges)
        left = target - before - (a[..., these].double() @ (both[these] + change)).float()
        return change, float((left.square().sum(-1) * weight)[-HELD_OUT:].sum())

    change, error = meets(rows)
    if error >= meets(torch.arange(k))[1]:
        return False
    for own, lent in ((mlp.gate_proj, theirs.gate_proj), (mlp.up_proj, theirs.up_proj)):
        own.weight.copy_(torch.cat([own.weight, lent.weight])[rows])
    mlp.down_proj.weight.copy_((both[rows] + change).float().T)
    return True
