"""What the dense model says of the training tokens: asked while the student trains, or stored on disk before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lowrise.edit.student import Student
from lowrise.errors import OutputError
from lowrise.files.siblings import remove, sibling, writing
from lowrise.heal.divergence import LIKELIEST, Answers, DenseStates, Targets, targets_of
from lowrise.heal.head import chunks
from lowrise.heal.objective import counted_positions
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

_SHARD_TOKENS = 65536  # tokens of a file: so much is done anew after an interruption


class Teacher(Protocol):
    def targets(self, rows: Sequence[int], ids: Tensor, counted: Tensor) -> Answers:
        """Of the counted positions of windows. rows: their numbers; ids, counted: (windows, length)."""


class Resident:
    """The dense model itself, in memory beside the student. autocast: the number format that it computes in."""

    def __init__(
        self,
        decoder: Decoder,
        temperature: float,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._decoder, self._temperature, self._autocast = decoder, temperature, autocast

    @property
    def where(self) -> str:
        return self._decoder.where

    @property
    def tokens_at_once(self) -> int:
        return self._decoder.batch_tokens

    def targets(self, rows: Sequence[int], ids: Tensor, counted: Tensor) -> DenseStates:  # noqa: ARG002
        return self._states(ids, counted)

    def likeliest(self, ids: Tensor, counted: Tensor) -> Targets:
        """What is stored of the same."""
        with torch.no_grad():
            states = self._states(ids, counted)
            device = states.h.device
            pieces = chunks(self._decoder, len(states.h))
            parts = [targets_of(states.at(part, device), self._temperature) for part in pieces]
        return Targets(*map(torch.cat, zip(*parts, strict=True))) if parts else _none(device)

    @torch.no_grad()
    def _states(self, ids: Tensor, counted: Tensor) -> DenseStates:
        with self._autocast():
            h = Student(self._decoder).run(*self._decoder.embed(ids.long()))
        return DenseStates(self._decoder, h[:, :-1][counted_positions(counted).to(h.device)], self._autocast)


class Stored:
    """Files of so many windows each, in `folder`: log-probabilities in float16, ids in int32.

    counts: (windows,) counted positions of every window. windows: of a file.
    """

    def __init__(self, folder: Path, counts: Tensor, length: int) -> None:
        self.folder = folder
        self._windows = max(1, _SHARD_TOKENS // length)
        self._counts = counts.long()

    @property
    def bytes(self) -> int:
        """Of all files, about."""
        return int(self._counts.sum()) * (6 * LIKELIEST + 2)

    def file(self, number: int) -> Path:
        return self.folder / f"targets-{number:05}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the files that are not there, or not whole."""
        return [number for number in range(-(-len(self._counts) // self._windows)) if not self._is_whole(number)]

    def make(self, teacher: Resident, ids: Tensor, counted: Tensor, progress: Reporter) -> None:
        """Write what is missing; what was written before an interruption stays.

        Raises OutputError for a disk without room.
        """
        missing = self.missing()
        if not missing:
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        at_once = max(1, teacher.tokens_at_once // ids.shape[1])
        self._check_room(len(missing))
        with progress.bar("teacher", len(missing) * self._windows) as bar:
            for number in missing:
                parts = []
                stop = min((number + 1) * self._windows, len(ids))
                for first in range(number * self._windows, stop, at_once):
                    rows = slice(first, min(first + at_once, stop))
                    parts.append(teacher.likeliest(ids[rows], counted[rows]))
                    bar.advance(ids[rows].numel(), steps=len(ids[rows]))
                found = Targets(*map(torch.cat, zip(*parts, strict=True)))
                _write(self.file(number), found)

    def targets(self, rows: Sequence[int], ids: Tensor, counted: Tensor) -> Targets:
        """As of `Teacher`. A row that counts nothing has none."""
        parts = []
        for index, row in enumerate(rows):
            if not counted[index].any():
                continue
            number = row // self._windows
            start = int(self._counts[number * self._windows : row].sum())
            stop = start + int(self._counts[row])
            with self._opened(number) as found:
                parts.append(Targets(*(found.get_slice(name)[start:stop] for name in Targets._fields)))
        return Targets(*map(torch.cat, zip(*parts, strict=True))) if parts else _none(ids.device)

    def _is_whole(self, number: int) -> bool:
        """Whether a file has the tensors of all its positions; the library compares their size and the file's."""
        positions = int(self._counts[number * self._windows : (number + 1) * self._windows].sum())
        try:
            with safe_open(self.file(number), framework="pt") as found:
                rows = [found.get_slice(name).get_shape()[0] for name in found.keys()]  # noqa: SIM118
                return {*found.keys()} == {*Targets._fields} and rows == [positions] * len(rows)
        except (OSError, SafetensorError, IndexError):
            return False

    def _opened(self, number: int) -> safe_open:
        try:
            return safe_open(self.file(number), framework="pt")
        except (OSError, SafetensorError) as error:
            expected, remedy = "what the dense model said of the tokens", "remove the file, and it is made anew"
            raise OutputError(self.file(number), expected, str(error), remedy) from error

    def _check_room(self, files: int) -> None:
        need = min(self.bytes, files * self._windows * int(self._counts.max()) * (6 * LIKELIEST + 2))
        free = shutil.disk_usage(self.folder).free
        if free < 1.05 * need:
            expected = f"{need / 2**30:.2f} GiB of room for what the dense model says of the tokens"
            remedy = "free space, set LOWRISE_CACHE to a larger disk, or say --teacher resident"
            raise OutputError(self.folder, expected, f"{free / 2**30:.2f} GiB", remedy)


def _write(file: Path, found: Targets) -> None:
    with writing(file):
        partial = sibling(file, "partial")
        try:
            values = {"ids": found.ids.int().cpu(), "log_p": found.log_p.half().cpu(), "rest": found.rest.half().cpu()}
            save_file(values, partial, metadata={"lowrise": json.dumps({"format": 1})})
            partial.replace(file)
        finally:
            remove(partial)


def _none(device: torch.device) -> Targets:
    empty = torch.zeros(0, 1, device=device)
    return Targets(empty.int(), empty, empty[:, 0])
