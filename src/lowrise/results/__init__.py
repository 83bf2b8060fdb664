"""What was found, typed: results.json, observation.json, compare.json and training.json. No torch.

A key that a run had no cause to measure is not written; a number that could not be had is null, with its reason beside
it where there is one. So what was set is written, in the order of the fields, and nothing else is.
"""

from __future__ import annotations

from lowrise.results.comparison import Collapse, ComingRow, ComparedRow, Comparison, DoneRow, FailedRow, NumberRecord
from lowrise.results.draft import Draft
from lowrise.results.estimate import Estimate, StageEstimate
from lowrise.results.healing import Healing
from lowrise.results.observation import Analysis, Matrix, Norms, Observation, Seen
from lowrise.results.perplexity import Perplexity
from lowrise.results.record import FORMAT, Record
from lowrise.results.run import (
    Curve,
    EngineVerdict,
    Generation,
    Ideal,
    MeasuredModel,
    Pace,
    Rate,
    RepairFit,
    Results,
    Retained,
    Sample,
    Speed,
    SpeedSettings,
    Spread,
    TaskRetained,
    TaskScores,
    TrainingSummary,
)

__all__ = [
    "FORMAT",
    "Analysis",
    "Collapse",
    "ComingRow",
    "ComparedRow",
    "Comparison",
    "Curve",
    "DoneRow",
    "Draft",
    "EngineVerdict",
    "Estimate",
    "FailedRow",
    "Generation",
    "Healing",
    "Ideal",
    "Matrix",
    "MeasuredModel",
    "Norms",
    "NumberRecord",
    "Observation",
    "Pace",
    "Perplexity",
    "Rate",
    "Record",
    "RepairFit",
    "Results",
    "Retained",
    "Sample",
    "Seen",
    "Speed",
    "SpeedSettings",
    "Spread",
    "StageEstimate",
    "TaskRetained",
    "TaskScores",
    "TrainingSummary",
]
