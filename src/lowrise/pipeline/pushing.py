"""A checkpoint folder on its way to the hub: nothing else in lowrise sends anything, and this only if it is named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.errors import UNUSABLE, ModelError, OutputError, close_paths, reason
from lowrise.files.marks import wrote_folder
from lowrise.progress import Reporter

_KEPT_BY_THE_HUB = ".gitattributes"  # which it makes itself
_BACK = "the folder is whole: `lowrise push` sends it again"


@dataclass(frozen=True)
class Push:
    """Where on the hub. name: ORG/NAME. private: a repository that is made is. force: one with files is replaced."""

    name: str
    private: bool = False
    force: bool = False

    @property
    def where(self) -> str:
        return f"push to {self.name}"


def check_push(push: Push) -> None:
    """Raises OutputError where it cannot be: a name that is none, no network, no token, a repository that is there."""
    _existing(_hub(push), push)


def push_folder(folder: Path, push: Push, progress: Reporter) -> str:
    """Send the folder as one commit, in the place of all files that lie there. Returns its address.

    Raises ModelError for a folder that is no checkpoint, OutputError as of `check_push` and for what fails on the way.
    """
    files = _files(folder)
    hub = _hub(push)
    before = _existing(hub, push)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    gone = sorted(before - {*files, _KEPT_BY_THE_HUB})
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files),
        *(CommitOperationDelete(path_in_repo=name) for name in gone),
    ]
    progress.say(f"{push.where}: {len(files)} files, {sum((folder / name).stat().st_size for name in files):,} bytes")
    with progress.stage("push"), _said_in_a_line(push), _quietly():
        hub.create_repo(push.name, private=push.private or None, exist_ok=True)
        hub.create_commit(push.name, operations, commit_message="Upload a checkpoint of lowrise")
    return f"{hub.endpoint}/{push.name}"


def _files(folder: Path) -> list[str]:
    """Of a checkpoint, and of what lies beside it, what goes along; paths in the folder. Raises ModelError."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise ModelError(folder, "a folder with a checkpoint", found, close_paths(folder, "check the path"))
    from lowrise.model.companions import files_to_send
    from lowrise.model.source import layers_of
    from lowrise.model.weights import check_weight_files, stored_tensors

    if not (folder / "config.json").is_file():
        raise ModelError(folder, "a checkpoint", "no config.json in it", "push what `run`, `apply` or `heal` wrote")
    weights = check_weight_files(folder, str(folder), allow_pickle=False)
    stored_tensors(weights)  # refuses a file that is not whole
    if not wrote_folder(folder):
        layers_of(str(folder))  # refuses what would not open
    return files_to_send(folder, weights)


def _hub(push: Push) -> Any:
    """The hub's client, once it is known that it may be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import validate_repo_id

    if push.name.count("/") != 1:
        raise OutputError("push", "ORG/NAME, a place on the hub", repr(push.name), "name it so")
    try:
        validate_repo_id(push.name)
    except ValueError as error:
        raise OutputError("push", "ORG/NAME, a place on the hub", repr(push.name), reason(error)) from error
    if HF_HUB_OFFLINE:
        said = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), "offline")
        raise OutputError(push.where, "a network that may be used", f"{said} set", "unset it, or push later")
    return HfApi(library_name="lowrise")


def _existing(hub: Any, push: Push) -> set[str]:
    """Files that lie there. Raises OutputError where there are some and they are not to be replaced."""
    with _said_in_a_line(push):
        hub.whoami()
        if not hub.repo_exists(push.name):
            return set()
        private = bool(hub.repo_info(push.name).private)
        files = {*hub.list_repo_files(push.name)}
    if push.private and not private:
        raise OutputError(push.where, "a private repository", "a public one", "choose another name, or make it private")
    if files - {_KEPT_BY_THE_HUB} and not push.force:
        expected = "a repository that is not there yet, or is empty"
        raise OutputError(push.where, expected, f"one of {len(files)} files", "choose another name, or say --force")
    return files


@contextmanager
def _said_in_a_line(push: Push) -> Iterator[None]:
    """What the hub or the way there refuses, as OutputError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    of_the_network: type[Exception] = HfHubHTTPError.__mro__[1]  # of the client's library, which changes by version
    try:
        yield
    except LocalTokenNotFoundError as error:
        remedy = "log in by `hf auth login`, or set HF_TOKEN"
        raise OutputError(push.where, "a token of the hub", "none", remedy) from error
    except HfHubHTTPError as error:
        raise _refused(push, error) from error
    except (of_the_network, *UNUSABLE) as error:
        found = reason(error.__cause__ or error)  # what stopped an upload lies behind the word that it stopped
        raise OutputError(push.where, "a hub that answers", found, f"try again; {_BACK}") from error


def _refused(push: Push, error: Any) -> OutputError:
    status = error.response.status_code
    said = f"status {status}" + (f", {error.server_message}" if error.server_message else "")
    owner = push.name.partition("/")[0]
    expected, remedy = {
        401: ("a token that the hub takes", "log in by `hf auth login`, or set another HF_TOKEN"),
        403: (f"a token that may write to {owner}", f"use one, or another name; {_BACK}"),
        404: ("a repository that the token may write to", f"use another token or name; {_BACK}"),
        409: ("a repository that is not there yet", f"choose another name; {_BACK}"),
    }.get(status, ("a hub that takes the folder", f"try again; {_BACK}"))
    return OutputError(push.where, expected, said, remedy)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the client's own progress bars, and what it thinks of a card without a header, or of its own library."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not before:
            enable_progress_bars()
