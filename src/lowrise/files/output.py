"""An output folder: held while a run works, written beside its place, put there in one step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrise.errors import OutputError
from lowrise.files.checks import cannot_be_replaced, check_file, check_output
from lowrise.files.exchange import exchange, move_to_free
from lowrise.files.locks import TakenError, locked
from lowrise.files.siblings import lock_file, remove, sibling, siblings, writing
from lowrise.files.single import remove_if_dead


@contextmanager
def claimed(out: Path, force: bool, inputs: Iterable[str | Path | None] = ()) -> Iterator[bool]:
    """`held`, once `check_output` has nothing against `out`: for all the time that a run works for it."""
    inputs = list(inputs)
    check_output(out, force, inputs)
    with held(out) as alone:
        check_output(out, force, inputs)  # anew: an old folder may have been put back
        yield alone


@contextmanager
def claimed_file(path: Path, force: bool, inputs: Iterable[str | Path | None] = ()) -> Iterator[bool]:
    """The same of a file, as of `check_file`."""
    check_file(path, force, inputs)
    with held(path) as alone:
        yield alone


@contextmanager
def held(out: Path, patience: float = 0.0) -> Iterator[bool]:
    """This process alone works for `out` meanwhile; False where there are no locks that say so. What dead ones left
    beside it is put back or removed, but for their work folders (`lowrise.work`).

    patience: seconds to wait for another process. Raises OutputError if it is still at work then. Folders above `out`
    are made, and taken away again if nothing came into them.
    """
    out_given, out = out, out.resolve()
    made = _missing_parents(out)
    try:
        with writing(out_given):
            out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(lock_file(out), patience) as alone:
                if alone:
                    with writing(out_given):
                        _tidy(out)
                yield alone
        except TakenError as error:
            found = "another lowrise process at work for it"
            raise OutputError(out_given, "a place that is free", found, "let it finish or choose another") from error
    finally:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def output_folder(out: Path, force: bool) -> Iterator[Path]:
    """A temporary sibling of `out` to write into; it becomes `out` if all went well and vanishes if not.

    With `force` an old `out` stands until the new one is whole, and is exchanged for it in one step. What may not be
    replaced is kept, and so is the finished folder, under another name: OutputError says which.
    """
    place = out.resolve()
    folder = sibling(place, "partial")
    try:
        with writing(out):
            folder.mkdir(parents=True)
        yield folder
        with writing(out):
            _open_to_readers(folder)
            _put(folder, place, force, out)
    finally:
        remove(folder)  # what is unfinished, or the old folder


@contextmanager
def output_file(path: Path, force: bool) -> Iterator[Path]:
    """The same of a file of any kind: one of the same name, in a temporary folder beside its place."""
    place = path.resolve()
    folder = sibling(place, "partial")
    try:
        with writing(path):
            folder.mkdir(parents=True)
        file = folder / place.name
        yield file
        with writing(path):
            _open_to_readers(folder)
            _put_file(file, place, force, path)
    finally:
        remove(folder)


def _tidy(out: Path) -> None:
    """An old folder without a new one was about to be replaced: it is put back. All else is of no use."""
    for old in siblings(out, "old"):
        if os.path.lexists(out):
            remove(old)
        else:
            move_to_free(old, out)
    for partial in siblings(out, "partial"):
        if partial.is_file():
            remove_if_dead(partial)  # a single file that is being written is locked by itself
        else:
            remove(partial)


def _put(folder: Path, place: Path, force: bool, out: Path) -> None:
    try:
        move_to_free(folder, place)
    except FileExistsError as error:
        expected, found = "a place that stays free while the run works", "something that was not there before"
        if force:
            reason = cannot_be_replaced(place)
            if reason is None:
                exchange(folder, place)
                return
            expected, found, _ = reason
        kept = _kept(folder, place)
        raise OutputError(out, expected, f"{found}, which is kept", f"the finished result lies in {kept}") from error


def _put_file(file: Path, place: Path, force: bool, path: Path) -> None:
    if force:
        file.replace(place)
        return
    try:
        move_to_free(file, place)
    except FileExistsError as error:
        kept = _kept(file, place)
        expected, found = "a place that stays free meanwhile", "something that was not there before, which is kept"
        raise OutputError(path, expected, found, f"the finished result lies in {kept}") from error


def _kept(folder: Path, place: Path) -> Path:
    """The finished folder under the first name beside its place that is free."""
    for number in itertools.count(1):
        name = place.with_name(f"{place.name}.finished" + (f"-{number}" if number > 1 else ""))
        try:
            move_to_free(folder, name)
        except FileExistsError:
            continue
        return name
    raise AssertionError("numbers do not end")


def _open_to_readers(folder: Path) -> None:
    """The permissions that the user's umask gives, which some writers do not."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _missing_parents(out: Path) -> list[Path]:
    """Folders above `out` that this run will make, innermost first."""
    missing, parent = [], out.parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    return missing
