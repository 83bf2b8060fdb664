"""The pass: every h[l] of every window, once, fed to the statistics as it appears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise import results
from lowrise.calibration import Windows
from lowrise.model.decoder import Decoder
from lowrise.observe.angular import AngularDistance
from lowrise.observe.massive import MassiveActivations
from lowrise.observe.passes import states_of_batches
from lowrise.observe.similarity import SpanSimilarity
from lowrise.progress import Reporter
from lowrise.work import Work


@dataclass(frozen=True)
class Observation:
    similarity: SpanSimilarity
    massive: MassiveActivations
    angular: AngularDistance

    def data(self) -> results.Observation:
        """observation.json, to six digits."""
        return results.Observation(
            input_output=_rounded(self.similarity.cosine(1)),
            pairs=[_rounded(row) for row in self.similarity.pairs()],
            norms=results.Norms(
                largest=_rounded(self.massive.largest()),
                median=_rounded(self.massive.median()),
                writers=self.massive.writers(),
            ),
        )


def keep_observation(work: Work, seen: Observation) -> None:
    """For `kept_observation`."""
    sums = {"similarity": seen.similarity.sums(), "massive": seen.massive.sums(), "angular": seen.angular.sums()}
    tensors = {f"{name}.{key}": value for name, of in sums.items() for key, value in of.items()}
    work.keep("observation", None, tensors, what="what was observed")


def kept_observation(work: Work, layers: int) -> Observation | None:
    """What was observed of a model of so many layers, if it was kept."""
    kept = work.find("observation")
    if kept is None:
        return None

    def of(name: str) -> dict[str, Tensor]:
        parts = ((key.partition("."), value) for key, value in kept.tensors.items())
        return {key: value for (whose, _, key), value in parts if whose == name}

    found = Observation(SpanSimilarity(layers), MassiveActivations(layers), AngularDistance(layers))
    found.similarity.resume(of("similarity"))
    found.massive.resume(of("massive"))
    found.angular.resume(of("angular"))
    return found


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


@torch.no_grad()
def observe(decoder: Decoder, windows: Windows, progress: Reporter) -> Observation:
    """Similarity and angles over all spans, and massive activations, from one forward pass a window."""
    layers = len(decoder)
    seen = Observation(SpanSimilarity(layers), MassiveActivations(layers), AngularDistance(layers))
    add_states(decoder, windows, progress, seen.similarity.add, seen.massive.add_states, seen.angular.add)
    return seen


@torch.no_grad()
def add_states(
    decoder: Decoder, windows: Windows, progress: Reporter, *statistics: Callable[[int, Tensor], None]
) -> None:
    """Every h[l] of every window, from one forward pass, given to each of `statistics`: (l, (batch, tokens, hidden)).

    Of a batch, states come in order from l = 0.
    """
    with progress.bar("observing", len(windows)) as bar:
        for ids, states in states_of_batches(decoder, windows.batches(decoder.batch_tokens)):
            for layer, h in states:
                for add in statistics:
                    add(layer, h.flatten(2))  # a stream of several is one of their width together
            bar.advance(ids.numel(), steps=len(ids))
