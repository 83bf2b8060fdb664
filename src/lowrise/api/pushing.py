"""A checkpoint to the hub, as the command of the same name sends it."""

from __future__ import annotations

from pathlib import Path

from lowrise.api.progress import Progress, reporting
from lowrise.pipeline.pushing import Push, push_folder


def push(
    folder: str | Path, name: str, *, private: bool = False, force: bool = False, progress: Progress = None
) -> str:
    """Send a checkpoint folder with its card and records to the hub, as one commit. Returns its address there.

    name: ORG/NAME. private: of a repository that is made. force: replace the files of one that is there.
    Raises ModelError for a folder that is no checkpoint; OutputError without a network, a token or the right to write,
    and for a repository with files, unless `force`.

    >>> lowrise.push("cut", "org/name", private=True)  # doctest: +SKIP
    'https://huggingface.co/org/name'
    """
    with reporting(progress, "push") as reporter:
        return push_folder(Path(folder), Push(name, private, force), reporter)
