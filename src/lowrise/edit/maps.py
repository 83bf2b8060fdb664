"""Linear maps of the residual stream at the gaps of a cut: made into networks, counted, put into the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lowrise.edit.boundary import Boundary, commit_all, gaps_of
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.student import Student, layers_left
from lowrise.model.decoder import Decoder
from lowrise.model.networks import SpanNetwork, linear_network
from lowrise.plan import Drop, Merge


def repaired_by(task: RepairTask, solved: Iterable[tuple[Boundary, Tensor]]) -> Repaired:
    """solved: W (d, d), float64, for every boundary: the stream is h·W where its layers were. Rounded to the model's
    precision before its error on held-out tokens is taken.
    """
    decoder = task.student.decoder
    fits, networks = [], {}
    for boundary, solution in solved:
        matrix = solution.to(decoder.dtype)
        gap, exactly = boundary.gap, matrix.to(solution.dtype)
        errors = boundary.error(), boundary.error(lambda x, w=exactly: x @ w)  # type: ignore[misc]
        fits.append(Fit(gap.start - 1, gap.stop, None, *errors))
        networks[gap.stop] = linear_network(matrix.to(decoder.device))
    commit_all(task.student)
    return Repaired(fits, networks)


def parameters_added(decoder: Decoder, edits: Sequence[Drop | Merge]) -> int:
    """How many parameters the maps of a repair by LinearPatch or Ghosted layers add: d² a gap."""
    return len(gaps_of(Student(decoder, layers_left(len(decoder), edits)))) * decoder.hidden_size**2


def attach_networks(decoder: Decoder, kept: Sequence[int], networks: Mapping[int, SpanNetwork]) -> None:
    """Put `networks`, by the original layer in front of which they act, into a model that has layers `kept` left.

    Number L of the dense model, as any behind the last layer that is kept, is behind the last one.
    """
    for layer in sorted(networks):
        decoder.attach(networks[layer], sum(one < layer for one in kept))
