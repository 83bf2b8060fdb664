"""LoRP's criterion: layers clustered by how alike their states are, and taken where a cluster says most things twice.

https://arxiv.org/abs/2605.27786. S (L, L) holds the mean cosines of h[i] and h[j], what enters layers i and j. Their
mean over i < j says how far alike layers are apart, the representation locality score RLS = -log₂ mean, and that how
many clusters there are: 2 from RLS 1 up, 3 from 0.7, else 4. Clusters are those of spectral clustering on (S + 1)/2.
In each, layers stand in the order of their redundancy, the mean cosine with the others of the cluster. First one of
each cluster goes, then always the next one of the cluster that is most alike in itself as it then is. The first and the
last layer stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lowrise.errors import RecipeError
from lowrise.methods import method
from lowrise.model.decoder import Decoder
from lowrise.observe.stream import Observation
from lowrise.recipe import Recipe
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, none_allowed, spans_of
from lowrise.select.selection import Selection

_CLUSTERS = ((1.0, 2), (0.7, 3), (-math.inf, 4))  # from this locality on, so many


def check(decoder: Decoder, _recipe: Recipe, k: int | None) -> None:
    """Raises RecipeError for more layers than there are between the first and the last."""
    most = len(decoder) - sum(method("criterion", "lorp").stays)
    if k is not None and k > most:
        expected = f"at most {most} layers, for lorp keeps the first and the last"
        raise RecipeError("--remove", expected, f"{k}", "remove fewer layers, or choose another criterion")


def choose(selection: Selection) -> Choice:
    return choose_by_locality(selection.observation, selection.count, selection.cuts)


def choose_by_locality(observation: Observation, k: int, cuts: AllowedCuts | None = None) -> Choice:
    """k layers as published, but for k-means: it starts from each layer in turn, not at random.

    cuts: only layers are taken with which an allowed cut can still be reached. Raises RecipeError where there is none.
    """
    # what is not a number is like nothing: a layer whose states failed is not the one to drop
    cosines = observation.similarity.pairs()[:-1, :-1].nan_to_num(nan=-1.0)
    layers = len(cosines)
    locality = _locality(cosines)
    labels = clusters(cosines, min(next(count for least, count in _CLUSTERS if locality >= least), layers))
    redundancy = [_mean(cosines[layer, other] for other in _like(labels, layer)) for layer in range(layers)]
    gone = _allocate(labels, redundancy, k, cuts or AllowedCuts(layers), cosines)
    scores = {
        "criterion": "lorp",
        "layers": gone,
        "locality": locality if math.isfinite(locality) else None,
        "clusters": labels,
        "redundancy": [one if math.isfinite(one) else None for one in redundancy],
    }
    return Choice(spans_of(gone), scores, way_out="another criterion may keep it")


def _locality(cosines: Tensor) -> float:
    """RLS; infinite where layers are not alike at all, on average."""
    above = cosines[tuple(torch.triu_indices(len(cosines), len(cosines), 1))]
    mean = float(above.mean())
    return -math.log2(mean) if mean > 0 else math.inf


def clusters(cosines: Tensor, count: int) -> list[int]:
    """The cluster of every layer, numbered in the order of their first layers. cosines: (L, L), float64.

    Spectral clustering (Shi and Malik, 2000): the largest eigenvectors of D⁻¹A, A = (S + 1)/2 without its diagonal and
    D its row sums, then k-means of the L points that their rows are.
    """
    affinity = (cosines + 1) / 2
    affinity.fill_diagonal_(0)
    root = affinity.sum(1).clamp_min(torch.finfo(affinity.dtype).eps).rsqrt()
    _, vectors = torch.linalg.eigh(root.unsqueeze(1) * affinity * root)
    labels = _k_means(vectors[:, -count:] * root.unsqueeze(1), count)
    number: dict[int, int] = {}
    return [number.setdefault(label, len(number)) for label in labels]


def _k_means(points: Tensor, count: int) -> list[int]:
    """Of all starts, which take a point and then always the one that is farthest from those taken, the tightest end."""
    best, least = [0] * len(points), math.inf
    for first in range(len(points)):
        centres = points[first : first + 1]
        while len(centres) < count:
            farthest = torch.cdist(points, centres).amin(1).argmax()
            centres = torch.cat([centres, points[farthest : farthest + 1]])
        labels: list[int] = []
        while (nearest := torch.cdist(points, centres).argmin(1)).tolist() != labels:
            labels = nearest.tolist()
            members = [points[nearest == label] for label in range(count)]
            centres = torch.stack([own.mean(0) if len(own) else old for own, old in zip(members, centres, strict=True)])
        loose = float((points - centres[nearest]).square().sum())
        if loose < least * (1 - 1e-9):  # of ends that are the same but for rounding, the first
            best, least = labels, loose
    return best


def _allocate(labels: list[int], redundancy: list[float], k: int, cuts: AllowedCuts, cosines: Tensor) -> list[int]:
    """The layers that go, in the order in which they are taken."""
    layers = len(labels)
    stays = method("criterion", "lorp").staying(layers)
    waiting = {
        label: sorted(
            (layer for layer in range(layers) if labels[layer] == label and layer not in stays),
            key=lambda layer: (-redundancy[layer], layer),
        )
        for label in sorted(set(labels))
    }
    gone = list[int]()

    def following() -> dict[int, int]:
        """By cluster, its most redundant layer that may go next."""
        may_go = cuts.removable(k, gone, stays)
        first = {label: next((layer for layer in queue if layer in may_go), None) for label, queue in waiting.items()}
        return {label: layer for label, layer in first.items() if layer is not None}

    for label in waiting:  # one of each first
        if len(gone) < k and label in (found := following()):
            gone.append(found[label])
    while len(gone) < k:
        found = following()
        if not found:
            raise none_allowed(cuts, k)
        left = {
            label: _mean(
                cosines[one, other]
                for one in range(layers)
                for other in range(one + 1, layers)
                if labels[one] == labels[other] == label and one not in gone and other not in gone
            )
            for label in found
        }
        gone.append(found[max(left, key=lambda label: left[label])])
    return gone


def _like(labels: list[int], layer: int) -> list[int]:
    return [other for other, label in enumerate(labels) if label == labels[layer] and other != layer]


def _mean(values: Iterable[Tensor]) -> float:
    """Minus infinity of none."""
    listed = [float(value) for value in values]
    return sum(listed) / len(listed) if listed else -math.inf
