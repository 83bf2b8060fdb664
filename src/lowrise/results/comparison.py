"""compare.json: presets and sizes on one model, a row each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lowrise.methods import load
from lowrise.plan import CalibrationRecord, Edit, ModelRecord
from lowrise.results.record import FORMAT, Format, Record
from lowrise.results.run import MeasuredModel, TaskRetained, TaskScores


class Collapse(Record):
    """The text that a model which has collapsed reads worst, and its perplexity ratio there."""

    text: str
    ratio: float


class NumberRecord(Record):
    """Of the dense model, of the compressed one, and what the one is of the other, as far as they are known."""

    dense: float | None
    value: float | None
    kept: float | None


class _Row(Record):
    name: str
    preset: str
    removed: int
    status: str
    loads_plainly: bool
    removed_share: float


class DoneRow(_Row):
    """A preset at a size, finished. perplexity: values by text. stability: the mean over tasks that have one.

    seconds_to_compress: choosing, editing, repairing, healing. numbers: of rows of `report/numbers.py` that have no key
    here, by key and part.
    """

    status: Literal["done"]
    layers: int
    parameters: int
    parameters_kept: float
    perplexity: dict[str, float]
    perplexity_ratio: dict[str, float]
    tasks: dict[str, TaskScores]
    retained: TaskRetained | None
    retained_tasks: dict[str, TaskRetained]
    stability: float | None
    stability_tasks: dict[str, float | None]
    seconds_to_compress: float
    seconds: float
    seconds_by_stage: dict[str, float]
    peak_bytes: int
    collapsed: Collapse | None
    edits: list[Edit]
    calibration: CalibrationRecord
    numbers: dict[str, dict[str, NumberRecord]] = {}


class FailedRow(_Row):
    status: Literal["failed"]
    reason: str
    seconds: float


class ComingRow(_Row):
    """Not run yet."""

    status: Literal["to come"]


ComparedRow = Annotated[DoneRow | FailedRow | ComingRow, Field(discriminator="status")]


class Comparison(Record):
    """compare.json. settings: those of the recipe that all rows share. dense: as measured once for all of them."""

    format: Format = FORMAT
    model: ModelRecord
    layers: int
    settings: dict[str, Any]
    dense: MeasuredModel
    rows: list[ComparedRow]
    versions: dict[str, str]

    @property
    def finished(self) -> list[DoneRow]:
        return [row for row in self.rows if isinstance(row, DoneRow)]

    def _repr_html_(self) -> str:
        """For a notebook."""
        return str(load("lowrise.report.notebook:comparison_html")(self))
