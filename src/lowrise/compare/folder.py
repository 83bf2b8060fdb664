"""A comparison's folder: what lies where, and one row's life on disk.

comparison.json   what was asked for         calibration/  tokens that rows share
prepared.json     the model, sizes in layers  dense/        the dense model's results
rows/NAME/        row.yaml, log.txt, and, once the row is finished, row.json
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lowrise.compare.child import StepResult
from lowrise.errors import InputError
from lowrise.files import held, write_file, writing
from lowrise.files.sealed import is_damaged, read_object, read_state, write_state
from lowrise.files.siblings import remove, siblings
from lowrise.files.single import remove_if_dead
from lowrise.methods import method
from lowrise.plan import Plan
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.report.comparison import RowState
from lowrise.report.folder import parse, read_folder
from lowrise.results import Results
from lowrise.settings import Heal

ASKED = "comparison.json"
WANTED = "asked.json"  # the same, of a command that is still being checked
PREPARED = "prepared.json"
DENSE = Path("dense", "dense.json")
_ANEW = "begin anew with --force"
_PATIENCE = 30.0  # seconds until the run of a row, whose comparison was killed, has ended too


def prepared_of(folder: Path) -> dict[str, Any] | None:
    return read_state(folder / PREPARED)


def dense_of(folder: Path) -> Results | None:
    """The dense model's results, once they are there."""
    found = read_state(folder / DENSE)
    return None if found is None else parse(Results, found, folder / DENSE, _ANEW)


def weights_of(folder: Path) -> str | None:
    """sha256 of the model that a comparison was begun with: as prepared, or as the first finished row says."""
    prepared = prepared_of(folder)
    if prepared is not None:
        return str(prepared["model"]["sha256"])
    rows = filter(None, map(read_state, sorted(folder.glob("rows/*/row.json"))))
    return next((str(row["plan"]["model"]["sha256"]) for row in rows if row["status"] == "done"), None)


def is_comparison(folder: Path) -> bool:
    """Whether `lowrise compare` made this folder, though one of the two files that say so may be damaged."""
    return read_question(folder / ASKED) is not None or prepared_of(folder) is not None


def read_question(file: Path) -> dict[str, Any] | None:
    """What was asked for, as `ComparisonRequest.to_json` writes it; None for anything else."""
    found = read_object(file)
    if found is None or found.get("format") != 1:
        return None
    rows, files = found.get("rows"), found.get("files")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        return None
    return found if isinstance(files, dict) and all(isinstance(one, str) for one in files.values()) else None


def mend_question(folder: Path, progress: Reporter) -> None:
    """Put back what was asked for, where that is damaged and a copy of it is whole."""
    prepared = prepared_of(folder)
    if prepared is not None and read_question(folder / ASKED) is None:
        progress.warn(f"{folder / ASKED} is damaged: written anew from {PREPARED}")
        write_file(folder / ASKED, json.dumps(prepared["asked"], indent=2) + "\n")


def mend(folder: Path, progress: Reporter) -> None:
    """Name what is damaged and clear it away, so that it is made anew; so too, without a word, what is unfinished."""
    with writing(folder):
        for file in (folder / PREPARED, folder / DENSE, *sorted(folder.glob("rows/*/row.json"))):
            if is_damaged(file):
                progress.warn(f"{file} is damaged: made anew")
                remove(file)
        for place in (folder, folder / "calibration", folder / "dense", *folder.glob("rows/*")):
            for left in [*place.glob(".*.json.*.partial"), *place.glob("*.safetensors.*.partial")]:
                remove_if_dead(left)
        for left in (folder / WANTED, (folder / DENSE).with_name("results.json")):
            remove(left)


def tokens_file(folder: Path, recipe: Recipe) -> Path:
    """Where the calibration tokens of this row's kind and number lie."""
    if method("criterion", recipe.select).looks_at == "sentences":
        name = f"sentences-{recipe.samples}x{recipe.merge_search.words}"
    else:
        name = f"windows-{recipe.samples}x{recipe.fitted_length}"
    return folder / "calibration" / f"{name}.safetensors"


def _shared(heal: Heal | None) -> Heal | None:
    """How a row is healed: all rows learn the same of one dense model, so what it says of the tokens is stored once."""
    return heal.model_copy(update={"teacher": "stored"}) if heal is not None and heal.teacher == "auto" else heal


class Row:
    """One preset at one size. removed: net layers of the model."""

    def __init__(self, folder: Path, recipe: Recipe, removed: int) -> None:
        self.preset, self.removed = recipe.preset, removed
        self.name = f"{recipe.preset}-{removed}"
        self.place = folder / "rows" / self.name
        self.model, self.log = self.place / "model", self.place / "log.txt"
        tokens = str(tokens_file(folder, recipe))
        self.recipe = recipe.model_copy(update={"remove": str(removed), "tokens": tokens, "heal": _shared(recipe.heal)})

    @property
    def title(self) -> str:
        return f"{self.preset}, {self.removed} layer{'s' if self.removed > 1 else ''}"

    def about(self) -> RowState:
        """What a table shows: the row's state, or that it is still to come."""
        about = RowState(self.name, self.preset, self.removed, self.recipe.loads_plainly)
        state, file = self.state(), self.place / "row.json"
        if state is None:
            return about
        if state["status"] == "failed":
            return replace(about, status="failed", reason=state["reason"], seconds=state["seconds"])
        results, plan = parse(Results, state["results"], file, _ANEW), parse(Plan, state["plan"], file, _ANEW)
        return replace(about, status="done", seconds=state["seconds"], results=results, plan=plan)

    def state(self) -> dict[str, Any] | None:
        """row.json: {"status": "done", "results", "plan", "seconds"} or {"status": "failed", "reason", ...}."""
        return read_state(self.place / "row.json")

    @property
    def finished(self) -> bool:
        """A row that was killed is tried again: memory may be free now. One that lowrise refused stays refused."""
        state = self.state()
        return state is not None and not state.get("killed", False)

    @property
    def seconds(self) -> float:
        return float((self.state() or {}).get("seconds", 0.0))

    def begin(self) -> list[str]:
        """Clear what an interrupted attempt left, but for what its run goes on with; the arguments of the run."""
        with writing(self.place):
            self.place.mkdir(parents=True, exist_ok=True)
            for left in {*self.place.iterdir()} - {*siblings(self.model, "work")}:
                remove(left)
            settings = self.recipe.model_dump()
            (self.place / "row.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return ["run", "--recipe", str(self.place / "row.yaml"), "--out", str(self.model)]

    def resume(self, keep: bool) -> bool:
        """Whether the row is finished. One whose output is whole becomes so: what waited for it was killed before
        noting it. What its end left undone is done.
        """
        if not self.place.is_dir():
            return False
        with held(self.model, _PATIENCE):  # which removes what is unfinished
            state = self.state()
            if self.finished and state is not None:
                if not state["kept"]:
                    remove(self.model)
                return True
        made = self._made()
        if made is not None:
            self._finish({"status": "done", "seconds": made["results"]["seconds"]["total"], **made}, keep)
        return made is not None

    def end(self, ended: StepResult, keep: bool) -> None:
        """Note how the run ended, and delete the checkpoint unless it is to be kept."""
        seconds, made = round(ended.seconds, 3), self._made() if ended.status == 0 else None
        if made is not None:
            self._finish({"status": "done", "seconds": seconds, **made}, keep)
            return
        reason = ended.reason if ended.status != 0 else "its run ended well, but left no results that can be read"
        again = ended.killed or ended.status == 0
        self._finish({"status": "failed", "reason": reason, "killed": again, "seconds": seconds}, keep)

    def _made(self) -> dict[str, Any] | None:
        """Results and plan of the output, if both are whole."""
        try:
            made = read_folder(self.model)
        except InputError:
            return None
        return {"results": made.results.model_dump(), "plan": made.plan.model_dump()}

    def _finish(self, state: dict[str, Any], keep: bool) -> None:
        with held(self.model, _PATIENCE):
            write_state(self.place / "row.json", {**state, "kept": keep})
            if not state.get("killed", False):
                for work in siblings(self.model, "work"):
                    remove(work)
            if not keep:
                remove(self.model)
