"""Prune&Comp: the stream brought to the length that the next layer expects, by the weights below a gap.

https://arxiv.org/abs/2507.18212: α = E‖h[stop]‖ / E‖h[start]‖ of the dense model, at every gap, folded into the
embedding and all that the layers below write. Ratios of several gaps multiply. No parameter is added, and any loader
opens the result. The published loop also chooses layers anew after each fold; here layers come from the plan. Its code
takes mean absolute entries in the place of lengths, and scales a head that shares the embedding's matrix with it: here
such a head stays as it was (`model/scaling.py`).
"""

from __future__ import annotations

import math
from functools import partial

import torch

from lowrise.edit.boundary import Boundary, Gap, boundaries, commit_all
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.exact import exact
from lowrise.model.decoder import Decoder
from lowrise.model.scaling import check_scaling, scale_embeddings, scaled_layer


def check(decoder: Decoder) -> None:
    """Raises ModelError for a model whose stream cannot be scaled by its weights: a mixture of experts, for one."""
    check_scaling(decoder)


@torch.no_grad()
def repair(task: RepairTask) -> Repaired:
    """α from the fitted windows. A plan's model must have passed `check`. Memory beyond a batch: one layer's writes."""
    student, fits, ratios = task.student, [], dict[Gap, float]()
    for boundary in boundaries(task):
        gap, ratio = boundary.gap, _ratio(boundary)
        errors = boundary.error(), boundary.error(lambda x, by=ratio: by * x)  # type: ignore[misc]
        fits.append(Fit(gap.start - 1, gap.stop, None, *errors))
        ratios[gap] = ratio
    for layer in student.layers:
        by = math.prod(ratio for gap, ratio in ratios.items() if gap.start > layer)
        if by != 1:
            made = scaled_layer(student.decoder.layer(layer), by, partial(student.parameter, layer))
            for name, value in made.items():
                student.change(layer, name, value)
            student.commit(layer)
    commit_all(student)
    scale_embeddings(student.decoder, math.prod(ratios.values()))
    return Repaired(fits)


def _ratio(boundary: Boundary) -> float:
    """E‖h[stop]‖ / E‖h[start]‖."""
    before = after = 0.0
    for x, target in boundary.pairs(held_out=False):
        before += float(torch.linalg.vector_norm(exact(x), dim=-1).sum())
        after += float(torch.linalg.vector_norm(exact(target), dim=-1).sum())
    return after / before if before > 0 else 1.0
