"""observation.json, as `run` writes it beside a model, and as `observe` does. h[l] enters layer l, 0-based."""

from __future__ import annotations

from lowrise.plan import CalibrationRecord, ModelRecord
from lowrise.results.record import FORMAT, Format, Record


class Norms(Record):
    """(L+1,) largest and median token norm of h[l]; writers: layers that write massive activations."""

    largest: list[float]
    median: list[float]
    writers: list[int]


class Observation(Record):
    """observation.json of `run`: what was seen before it planned, `input_output` (L,), `pairs` (L+1, L+1)."""

    format: Format = FORMAT
    input_output: list[float]
    pairs: list[list[float]]
    norms: Norms

    def fits(self, layers: int) -> bool:
        lengths = {len(self.pairs), len(self.norms.largest), len(self.norms.median), *map(len, self.pairs)}
        return len(self.input_output) == layers and lengths == {layers + 1}


class Matrix(Record):
    """One matrix of every layer, against its match in the next: L norms, else L - 1 values. Null: there is no match."""

    norm: list[float | None]
    distance: list[float | None]
    similarity: list[float | None]
    cosine: list[float | None]


class Seen(Record):
    """What `observe/analysis.py` finds, and defines. input_output, flattened: (L,). pairs: (L+1, L+1).

    matrices: by name in the layer.
    """

    layers: int
    input_output: list[float]
    pairs: list[list[float]]
    flattened: list[float]
    norms: Norms
    matrices: dict[str, Matrix]


class _Source(Record):
    model: ModelRecord
    calibration: CalibrationRecord


class Analysis(Seen, _Source):  # in this order, the model is written first
    """observation.json of `observe`."""

    format: Format = FORMAT
    versions: dict[str, str]
    seconds: dict[str, float]
