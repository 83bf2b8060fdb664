"""A comparison's folder: what lies where, one row's life on disk, and that only one process writes there.

comparison.json   what was asked for         calibration/  tokens that rows share
prepared.json     the model, sizes in layers  dense/        the dense model's results
rows/NAME/        row.yaml, log.txt, and, once the row is finished, row.json
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lowrise.compare.child import Ended
from lowrise.compare.state import DENSE, PREPARED, ROW, read_state
from lowrise.errors import OutputError
from lowrise.files import write_file, writing
from lowrise.recipe import Recipe

_LOCK = ".lock"


def prepared_of(folder: Path) -> dict[str, Any] | None:
    return read_state(folder / PREPARED)


def dense_of(folder: Path) -> dict[str, Any] | None:
    return read_state(folder / DENSE)


def tokens_file(folder: Path, recipe: Recipe) -> Path:
    """Where the calibration tokens of this row's kind and number lie."""
    if recipe.select == "collapse":
        name = f"sentences-{recipe.samples}x{recipe.collapse.words}"
    else:
        name = f"windows-{recipe.samples}x{recipe.fitted_length}"
    return folder / "calibration" / f"{name}.safetensors"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises OutputError while another process holds the folder. The kernel lets go of it however that one ends."""
    with writing(folder), (folder / _LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = "another `lowrise compare` at work in it"
            raise OutputError(folder, "a comparison to go on with", found, "let it finish") from error
        yield


class Row:
    """One preset at one size. removed: net layers of the model."""

    def __init__(self, folder: Path, recipe: Recipe, removed: int) -> None:
        self.preset, self.removed = recipe.preset, removed
        self.name = f"{recipe.preset}-{removed}"
        self.place = folder / "rows" / self.name
        self.model, self.log = self.place / "model", self.place / "log.txt"
        tokens = str(tokens_file(folder, recipe))
        self.recipe = recipe.model_copy(update={"remove": str(removed), "tokens": tokens})

    @property
    def title(self) -> str:
        return f"{self.preset}, {self.removed} layer{'s' if self.removed > 1 else ''}"

    def about(self) -> dict[str, Any]:
        """What a table shows: the row's state, or that it is still to come."""
        about = {"name": self.name, "preset": self.preset, "removed": self.removed}
        plain = {"loads_plainly": self.recipe.loads_plainly}
        return {**about, **plain, **(self.state() or {"status": "to come"})}

    def state(self) -> dict[str, Any] | None:
        """row.json: {"status": "done", "results", "plan", "seconds"} or {"status": "failed", "reason", ...}."""
        return read_state(self.place / ROW)

    @property
    def finished(self) -> bool:
        """A row that was killed is tried again: memory may be free now. One that lowrise refused stays refused."""
        state = self.state()
        return state is not None and not state.get("killed", False)

    @property
    def seconds(self) -> float:
        return float((self.state() or {}).get("seconds", 0.0))

    def begin(self) -> list[str]:
        """Clear what an interrupted attempt left; the arguments of the run."""
        with writing(self.place):
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(parents=True)
            settings = self.recipe.model_dump()
            (self.place / "row.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return ["run", "--recipe", str(self.place / "row.yaml"), "--out", str(self.model)]

    def adopt(self, keep: bool) -> bool:
        """Finish a row whose output is whole, though the process that waited for it was killed before noting so."""
        results = read_state(self.model / "lowrise" / "results.json")
        if results is None:
            return False
        self._finish({"status": "done", "seconds": results["seconds"]["total"]}, keep)
        return True

    def end(self, ended: Ended, keep: bool) -> None:
        """Note how the run ended, and delete the checkpoint unless it is to be kept."""
        seconds = round(ended.seconds, 3)
        if ended.status == 0:
            self._finish({"status": "done", "seconds": seconds}, keep)
        else:
            self._finish({"status": "failed", "reason": ended.reason, "killed": ended.killed, "seconds": seconds}, keep)

    def _finish(self, state: dict[str, Any], keep: bool) -> None:
        if state["status"] == "done":
            state["results"] = read_state(self.model / "lowrise" / "results.json")
            state["plan"] = read_state(self.model / "lowrise" / "plan.json")
        write_file(self.place / "row.json", json.dumps(state, indent=2) + "\n")
        if not keep:
            shutil.rmtree(self.model, ignore_errors=True)
        for partial in self.place.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
