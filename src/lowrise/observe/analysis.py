"""Everything that `lowrise observe` reports of a model: its layers' outputs and its layers' weights."""

from __future__ import annotations

import torch

from lowrise.calibration import Windows
from lowrise.model.decoder import Decoder
from lowrise.observe.flattened import FlattenedSimilarity
from lowrise.observe.massive import MassiveActivations
from lowrise.observe.similarity import SpanSimilarity
from lowrise.observe.stream import add_states
from lowrise.observe.weights import adjacent_matrices
from lowrise.progress import Reporter
from lowrise.results import Norms, Seen


@torch.no_grad()
def analyse(decoder: Decoder, windows: Windows, progress: Reporter) -> Seen:
    """One forward pass a window and one look at the weights.

    input_output: (L,) mean over tokens of cos(h[l], h[l+1]) (LLM-Streamline, arXiv 2403.19135, figure 2).
    pairs: (L+1, L+1) the same of any two states. flattened: (L,) as input_output, with each window as one vector
    (LaCo, arXiv 2402.11187, figure 5). norms: (L+1,) largest and median token norm of h[l], and the layers that write
    massive activations. matrices: see `adjacent_matrices` (LaCo, figure 4).
    """
    layers = len(decoder)
    similarity, flattened, massive = SpanSimilarity(layers), FlattenedSimilarity(layers), MassiveActivations(layers)
    add_states(decoder, windows, progress, similarity.add, flattened.add, massive.add_states)
    return Seen(
        layers=layers,
        input_output=similarity.cosine(1).tolist(),
        pairs=similarity.pairs().tolist(),
        flattened=flattened.cosine().tolist(),
        norms=Norms(
            largest=massive.largest().tolist(),
            median=massive.median().tolist(),
            writers=massive.writers(),
        ),
        matrices=adjacent_matrices(decoder),
    )
