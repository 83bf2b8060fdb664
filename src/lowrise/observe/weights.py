"""How alike the matching matrices of adjacent layers are (LaCo, arXiv 2402.11187, figure 4)."""

from __future__ import annotations

from itertools import pairwise

import torch

from lowrise.model.decoder import Decoder
from lowrise.results import Matrix


@torch.no_grad()
def adjacent_matrices(decoder: Decoder) -> dict[str, Matrix]:
    """For every matrix A of a layer, by its name in the layer, and its match B in the next, L - 1 values each:

    distance ‖A - B‖; similarity 1 - ‖A - B‖/(‖A‖ + ‖B‖), which is 1 for equal matrices, about 0.29 for unrelated
    ones of equal norm and 0 for opposite ones; cosine ⟨A, B⟩/(‖A‖‖B‖). And the L norms ‖A‖. All Frobenius, in float32.
    None where the next layer has no matrix of that name and shape; likewise what divides by the norm of a zero matrix.
    """
    layers = [{n: p for n, p in layer.named_parameters() if p.dim() > 1} for layer in decoder.layers]
    found: dict[str, Matrix] = {}
    for name in layers[0]:
        norms = [float(layer[name].float().norm()) if name in layer else None for layer in layers]
        rows = Matrix(norm=norms, distance=[], similarity=[], cosine=[])
        for index, (one, other) in enumerate(pairwise(layers)):
            mine, its = norms[index], norms[index + 1]
            if mine is None or its is None or one[name].shape != other[name].shape:
                distance = similarity = cosine = None
            else:
                a, b = one[name].float(), other[name].float()
                distance = float((a - b).norm())
                similarity = 1 - distance / (mine + its) if mine + its else None
                # of copies: how a product is rounded hangs on where in memory the factors begin
                product = float(torch.dot(a.flatten().clone(), b.flatten().clone()))
                cosine = product / (mine * its) if mine * its else None
            rows.distance.append(distance)
            rows.similarity.append(similarity)
            rows.cosine.append(cosine)
        found[name] = rows
    return found
