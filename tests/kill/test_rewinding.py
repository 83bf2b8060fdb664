"""What tests of signals stand on: a fork may do to a folder what it likes, and its parent goes on as if it had not."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from rewinding import Forking, Snapshot
from stepwise import contents


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_text("a")
    (folder / "b").write_text("b")
    return folder


def spoil(place: Path, handle: int) -> None:
    """All that a command may do at its end, and more."""
    os.write(handle, b"of the fork")
    shutil.rmtree(place / "inner")
    (place / "b").rename(place / "inner")
    (place / "new").mkdir()
    (place / "new" / "file").write_text("new")
    with (place / "lock").open("r+") as lock:
        lock.write("longer than before")


def test_names_contents_and_modes_come_back_to_the_files_that_are_open(place: Path, tmp_path: Path) -> None:
    handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
    os.write(handle, b"own, ")
    fcntl.flock(handle, fcntl.LOCK_EX)
    (place / "b").chmod(0o600)
    before = contents(place)
    snapshot, forking = Snapshot(place, tmp_path / "spare"), Forking(place)
    child = forking.fork()
    if child == 0:
        status = 1
        try:
            with (place / "lock").open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has the lock
            spoil(place, handle)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert contents(place) != before
    snapshot.put_back()
    forking.ended()
    assert contents(place) == before
    assert (place / "b").stat().st_mode & 0o777 == 0o600
    with (place / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # and so has the parent again
    os.write(handle, b"and on")
    os.close(handle)
    assert (place / "lock").read_text() == "own, and on"
