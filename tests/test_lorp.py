"""LoRP's criterion against a naive reference, and on similarities whose clusters are plain to see."""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from lowrise.model.decoder import Decoder
from lowrise.observe.stream import Observation, observe
from lowrise.progress import Reporter
from lowrise.select.lorp import choose_by_locality, clusters
from refusals import Main, assert_one_line


class Known:
    """An observation of which the mean cosines are known. cosines: of the states that enter layers."""

    def __init__(self, cosines: Tensor) -> None:
        self._cosines = cosines

    @property
    def similarity(self) -> Known:
        return self

    def pairs(self) -> Tensor:
        """With the last layer's output, which no layer is judged by."""
        one = torch.zeros(len(self._cosines) + 1, len(self._cosines) + 1, dtype=torch.float64)
        one[:-1, :-1] = self._cosines
        return one


def known(cosines: Tensor) -> Observation:
    return Known(cosines)  # type: ignore[return-value]


def blocks(sizes: list[int], within: float, between: float) -> Tensor:
    """Alike within blocks of layers that stand together, a little less for each layer between."""
    owner = torch.tensor([block for block, size in enumerate(sizes) for _ in range(size)])
    cosines = torch.where(owner[:, None] == owner, within, between).double()
    at = torch.arange(len(owner))
    cosines -= 0.001 * (at[:, None] - at).abs()
    return cosines.fill_diagonal_(1)


def naive_clusters(cosines: Tensor, count: int) -> list[int]:
    """By trying every assignment: the least scatter of the rows of D⁻¹A's eigenvectors."""
    affinity = (cosines + 1) / 2 - torch.eye(len(cosines), dtype=torch.float64)
    values, vectors = torch.linalg.eig(affinity / affinity.sum(1, keepdim=True))
    points = vectors.real[:, values.real.argsort(descending=True)[:count]]
    root = affinity.sum(1).sqrt()  # eigenvectors of length 1 in the symmetric form
    points = points / (points * root[:, None]).norm(dim=0)

    @functools.cache
    def scatter(members: tuple[int, ...]) -> float:
        own = points[list(members)]
        return float((own - own.mean(0)).square().sum())

    best, least = [], math.inf
    for labels in itertools.product(range(count), repeat=len(cosines)):
        if list(dict.fromkeys(labels)) != list(range(count)):
            continue  # the same clusters by other numbers, or fewer of them
        total = sum(scatter(tuple(i for i, one in enumerate(labels) if one == label)) for label in range(count))
        if total < least:
            best, least = list(labels), total
    return best


def naive_choice(cosines: Tensor, k: int) -> list[int]:
    """Pairs summed in loops, and every choice made by looking at all layers anew."""
    layers = len(cosines)
    pairs = [(i, j) for i in range(layers) for j in range(layers) if i < j]
    locality = -math.log2(sum(float(cosines[i, j]) for i, j in pairs) / len(pairs))
    labels = naive_clusters(cosines, 2 if locality >= 1 else 3 if locality >= 0.7 else 4)

    def redundancy(layer: int) -> float:
        others = [float(cosines[layer, i]) for i in range(layers) if i != layer and labels[i] == labels[layer]]
        return sum(others) / len(others) if others else -math.inf

    def alike(label: int) -> float:
        left = [float(cosines[i, j]) for i, j in pairs if labels[i] == labels[j] == label and not {i, j} & set(gone)]
        return sum(left) / len(left) if left else -math.inf

    gone: list[int] = []
    inner = set(range(1, layers - 1))
    with_some = [label for label in range(max(labels) + 1) if any(labels[layer] == label for layer in inner)]
    for turn in range(k):
        may_go = sorted(inner - set(gone))
        label = with_some[turn] if turn < len(with_some) else max({labels[layer] for layer in may_go}, key=alike)
        gone.append(max((layer for layer in may_go if labels[layer] == label), key=redundancy))
    return gone


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mean", "count"), [(0.45, 2), (0.55, 3), (0.75, 4)])
def test_it_chooses_as_the_naive_reference_does(seed: int, mean: float, count: int) -> None:
    """States that turn at random as they go up; all their cosines moved so that layers are so alike on average."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(8, 16, dtype=torch.float64, generator=generator).cumsum(0)
    states /= states.norm(dim=1, keepdim=True)
    cosines = states @ states.T
    own = (float(cosines.sum()) - 8) / (8 * 7)
    cosines = 1 - (1 - cosines) * (1 - mean) / (1 - own)
    choice = choose_by_locality(known(cosines), 5)
    assert len(set(choice.scores["clusters"])) == count
    assert choice.scores["layers"] == naive_choice(cosines, 5)
    assert sorted(layer for span in choice.spans for layer in range(*span)) == sorted(choice.scores["layers"])
    assert json.loads(json.dumps(choice.scores, allow_nan=False)) == choice.scores


def test_a_layer_whose_states_failed_is_not_among_the_first_to_go() -> None:
    cosines = blocks([4, 4], 0.9, 0.1)
    cosines[2], cosines[:, 2] = math.nan, math.nan
    choice = choose_by_locality(known(cosines), 3)
    assert 2 not in choice.scores["layers"]


@pytest.mark.parametrize("sizes", [[4, 6], [3, 3, 5], [2, 4, 3, 5]])
def test_blocks_of_alike_layers_are_the_clusters(sizes: list[int]) -> None:
    expected = [block for block, size in enumerate(sizes) for _ in range(size)]
    assert clusters(blocks(sizes, 0.95, 0.2), len(sizes)) == expected


@pytest.mark.parametrize(
    ("within", "between", "count"), [(0.9, 0.0, 2), (0.9, 0.45, 3), (0.95, 0.7, 4)], ids=["local", "between", "global"]
)
def test_the_locality_decides_how_many_clusters_there_are(within: float, between: float, count: int) -> None:
    scores = choose_by_locality(known(blocks([3, 3, 3, 3], within, between)), 2).scores
    assert len(set(scores["clusters"])) == count
    cosines = blocks([3, 3, 3, 3], within, between)
    mean = (float(cosines.sum()) - 12) / (12 * 11)
    assert scores["locality"] == pytest.approx(-math.log2(mean))


def test_each_cluster_gives_one_before_the_most_redundant_gives_more() -> None:
    cosines = blocks([6, 6], 0.8, 0.05)
    cosines[6:, 6:] += 0.15 * (1 - torch.eye(6, dtype=torch.float64))
    choice = choose_by_locality(known(cosines), 4)
    assert choice.scores["clusters"] == [0] * 6 + [1] * 6
    first, second, *rest = choice.scores["layers"]
    assert first in range(1, 6)
    assert second in range(6, 11)
    assert all(layer in range(6, 11) for layer in rest)


def test_the_first_and_the_last_layer_stay() -> None:
    cosines = blocks([3, 4], 0.9, 0.1)
    assert choose_by_locality(known(cosines), 5).spans == [(1, 6)]


def test_more_layers_than_those_between_the_first_and_the_last_are_refused(
    main: Main, tiny_folder: Path, tmp_path: Path
) -> None:
    line = assert_one_line(*main("plan", tiny_folder, "--preset", "lorp", "--remove", "5", "--out", tmp_path / "p"), ())
    assert "at most 4 layers" in line


def test_layers_that_are_not_alike_at_all_are_local() -> None:
    cosines = torch.eye(6, dtype=torch.float64) - 0.1 * (1 - torch.eye(6, dtype=torch.float64))
    scores = choose_by_locality(known(cosines), 2).scores
    assert scores["locality"] is None
    assert len(set(scores["clusters"])) <= 2


def test_of_a_model_it_sees_what_enters_layers() -> None:
    decoder, windows = Decoder(tiny.model()), tiny.windows(4)
    with torch.no_grad():
        states = torch.stack([h.double().flatten(0, 1) for layer, h in decoder.states(windows.ids, tiny.LAYERS - 1)])
    states /= states.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("itd,jtd->ij", states, states) / states.shape[1]
    found = choose_by_locality(observe(decoder, windows, Reporter(quiet=True)), 2).scores
    assert found["layers"] == naive_choice(cosines, 2)
