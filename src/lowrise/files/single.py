"""One file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from lowrise.files.locks import TakenError, lock, still_named
from lowrise.files.siblings import remove, sibling, siblings, writing


def write_file(path: Path, text: str) -> None:
    """Write to a temporary sibling, which is locked meanwhile, then rename. What dead processes left there goes.

    A link at `path` is replaced, never followed: it may lead out of the folder, or to a device.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in siblings(path, "partial"):
            remove_if_dead(left)
        while not _written(path, text):
            pass


def _written(target: Path, text: str) -> bool:
    """False where another process took the file away in the moment before it was locked."""
    partial = sibling(target, "partial")
    try:
        with partial.open("x", encoding="utf-8") as stream:
            try:
                lock(stream.fileno())
            except TakenError:
                return False
            if not still_named(stream.fileno(), partial):
                return False
            stream.write(text)
            stream.flush()
            partial.replace(target)
    finally:
        remove(partial)
    return True


def remove_if_dead(partial: Path) -> None:
    """Delete what no process that lives is writing: that one would hold its lock."""
    try:
        handle = os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return  # gone by now, or no file
    try:
        if lock(handle):
            remove(partial)
    except TakenError:
        pass
    finally:
        os.close(handle)
