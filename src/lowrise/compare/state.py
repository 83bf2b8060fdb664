"""What a comparison keeps between two runs, read and checked; what is damaged is named, and made anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowrise.errors import UNUSABLE, OutputError
from lowrise.headers import safetensors_header
from lowrise.plan import ModelRecord, Plan
from lowrise.progress import Reporter
from lowrise.reading import read_json
from lowrise.report.comparison import columns, summarise
from lowrise.report.folder import Results

PREPARED = "prepared.json"
DENSE = Path("dense", "results.json")
ROW = "row.json"
_REMEDY = "delete it: the same command makes it anew"


class _Prepared(BaseModel):
    model: ModelRecord
    layers: int = Field(gt=0)
    removed: dict[str, int]
    seconds: dict[str, float] = {}


class _Done(BaseModel):
    model_config = ConfigDict(extra="ignore")

    status: Literal["done"]
    results: Results
    plan: Plan
    seconds: float


class _Failed(BaseModel):
    model_config = ConfigDict(extra="ignore")

    status: Literal["failed"]
    reason: str
    killed: bool = False
    seconds: float


def read_state(file: Path) -> dict[str, Any] | None:
    """A JSON object of a comparison; None where the file is not there. Raises OutputError for what is none."""
    if not file.exists():
        return None
    found = read_json(file, OutputError, "a comparison's JSON", _REMEDY, lenient=True)  # a ruin's numbers are infinite
    if not isinstance(found, dict):
        raise OutputError(file, "a comparison's JSON", "no mapping", _REMEDY)
    return found


def clear_damaged(folder: Path, report: Reporter) -> None:
    """Delete state that is not what a comparison writes, with a word for each; what it stood for is done again."""
    prepared = _sound(folder / PREPARED, (_Prepared,), report)
    dense = _sound(folder / DENSE, (Results,), report)
    for file in sorted(folder.glob(f"rows/*/{ROW}")):
        state = _sound(file, (_Done, _Failed), report)
        if state is not None and prepared is not None:
            about = {"name": file.parent.name, "preset": "", "removed": 1, "loads_plainly": True, **state}
            try:
                columns(summarise(prepared, dense, [about], {}))
            except UNUSABLE as error:
                _clear(file, f"numbers that no table takes: {error!r}", report)
    for file in sorted(folder.glob("calibration/*.safetensors")):
        try:
            safetensors_header(file, OutputError, _REMEDY)
        except OutputError as error:
            _clear(file, str(error.__cause__ or error), report)


def _sound(file: Path, kinds: tuple[type[BaseModel], ...], report: Reporter) -> dict[str, Any] | None:
    try:
        state = read_state(file)
    except OutputError as error:
        _clear(file, str(error.__cause__ or error), report)
        return None
    reasons = []
    for kind in kinds if state is not None else ():
        try:
            kind.model_validate(state, strict=True)
            return state
        except ValidationError as error:
            first = error.errors()[0]
            reasons.append(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if reasons:
        _clear(file, reasons[0], report)
    return None


def _clear(file: Path, reason: str, report: Reporter) -> None:
    report.warn(f"{file} is damaged ({reason}): made anew")
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink()
