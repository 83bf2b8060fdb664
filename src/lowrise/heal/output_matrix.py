"""A trained network's last matrix, solved anew in closed form on the pairs that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lowrise.edit.fit import Fit
from lowrise.edit.gram import Solution, gather
from lowrise.edit.replace import Trainee
from lowrise.heal.calls import full_window_calls
from lowrise.heal.pairs import Pairs
from lowrise.methods import load, method
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import Matrix, captured
from lowrise.model.networks import SpanNetwork
from lowrise.plan import Replace


@torch.no_grad()
def refit_output_matrix(decoder: Decoder, trainee: Trainee, edit: Replace, pairs: Pairs, held_out: int) -> Fit:
    """Training has left the network near h[stop]; its last matrix now meets it as well as a matrix can, in place.

    held_out: so many of the last pairs choose λ and are fitted by nothing.
    """
    if isinstance(trainee.module, SpanNetwork):
        write = Matrix(trainee.module.get_submodule("down"), "down.weight", input_first=False)
    else:
        write = decoder.layer(edit.start).mlp_write
    calls = full_window_calls(decoder, 1, pairs.inputs.shape[1])
    weight = trainee.module.get_parameter(write.parameter)
    own = write.matrix(weight).float()

    def batches() -> Iterator[tuple[bool, Tensor, Tensor, None]]:
        for row in range(len(pairs)):
            h, target = (part[row : row + 1].to(weight.device).float() for part in (pairs.inputs, pairs.targets))
            with captured(write.module) as inputs:
                out = trainee.forward(h, calls)
            yield row >= len(pairs) - held_out, inputs[0], target - out.float(), None

    fit, rest = gather(own.shape, own.device, batches())
    solution: Solution = load(str(method("repair", edit.repair).on_networks))(fit, rest, own)
    weight.copy_(write.moved(own, solution.change, weight.dtype)[0])
    return Fit(edit.start, edit.stop, solution.ridge, solution.before, solution.after)
