"""`lowrise push` and `--push`, against a stand-in of the hub on loopback: what is sent, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

import tiny
from hub import TOKEN, Hub, serving
from lowrise.model.companions import files_to_send
from refusals import PLAIN, Main, assert_one_line

NAME = "some-org/shallow"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Where this process finds the hub, with a token that it takes."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, and beside it what is nobody's business."""
    made = tiny.save(tmp_path / "model")
    (made / "README.md").write_text("# A card\n")
    (made / "lowrise").mkdir()
    (made / "lowrise" / "plan.json").write_text('{"format": 2}')
    for name in (".env", "notes.json", "optimizer.pt", "other.safetensors", "lowrise/.lock", "code.py"):
        (made / name).write_text("private")
    (made / "runs").mkdir()
    (made / "runs" / "log.txt").write_text("private")
    return made


def contents(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


SENT = ["README.md", "config.json", "generation_config.json", "lowrise/plan.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json"]  # fmt: skip


def test_the_checkpoint_goes_with_its_card_and_records_and_nothing_else(hub: Hub, folder: Path, main: Main) -> None:
    status, out, err = main("push", folder, NAME)
    assert (status, out) == (0, f"pushed to {hub.address}/{NAME}\n"), err
    assert hub.files(NAME) == {".gitattributes": b"", **contents(folder, SENT)}
    assert hub.repositories[NAME]["private"] is False
    assert "7 files" in err


def test_private(hub: Hub, folder: Path, main: Main) -> None:
    status, out, err = main("push", folder, NAME, "--private", "--quiet", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"url": f"{hub.address}/{NAME}"}
    assert hub.repositories[NAME]["private"] is True


def test_a_private_one_does_not_become_public(hub: Hub, folder: Path, main: Main) -> None:
    hub.make(NAME)
    refused = main("push", folder, NAME, "--private", "--force", "--quiet")
    assert_one_line(*refused, ("a private repository", "public"))


def test_a_repository_with_files_is_replaced_only_by_force(hub: Hub, folder: Path, main: Main) -> None:
    hub.make(NAME, old=b"1", **{".gitattributes": b"2"})
    assert_one_line(*main("push", folder, NAME, "--quiet"), (NAME, "not there yet", "2 files", "--force"))
    assert hub.files(NAME) == {"old": b"1", ".gitattributes": b"2"}
    status, _, err = main("push", folder, NAME, "--force", "--quiet")
    assert status == 0, err
    assert hub.files(NAME) == {".gitattributes": b"2", **contents(folder, SENT)}


def test_an_empty_repository_is_filled(hub: Hub, folder: Path, main: Main) -> None:
    """As one that is left by an upload that failed."""
    hub.make(NAME, **{".gitattributes": b""})
    assert main("push", folder, NAME, "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("path", "status", "fragments"),
    [
        ("/api/whoami-v2", 401, ("a token that the hub takes", "status 401", "hf auth login")),
        ("/api/repos/create", 403, ("may write to some-org", "no such right")),
        (f"/api/models/{NAME}/commit/main", 403, ("may write to some-org", "no such right", "`lowrise push`")),
        (f"/api/models/{NAME}/commit/main", 500, ("a hub that takes the folder", "status 500", "try again")),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub, folder: Path, main: Main, path: str, status: int, fragments: tuple[str, ...]
) -> None:
    hub.refuses[path] = status, "no such right"
    assert_one_line(*main("push", folder, NAME, "--quiet"), fragments)


def test_without_a_token(hub: Hub, folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert_one_line(*main("push", folder, NAME, "--quiet"), (NAME, "a token of the hub", "none", "HF_TOKEN"))
    assert hub.asked == []


def test_without_a_network(hub: Hub, folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert_one_line(*main("push", folder, NAME, "--quiet"), ("a hub that answers", "try again"))
    assert hub.asked == []


def test_offline(hub: Hub, folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_line(*main("push", folder, NAME, "--quiet"), ("a network that may be used", "HF_HUB_OFFLINE", "unset"))
    assert hub.asked == []


@pytest.mark.parametrize("name", ["shallow", "a/b/c", "some-org/", "some org/x", "org/--x"])
def test_a_name_that_is_none(hub: Hub, folder: Path, main: Main, name: str) -> None:
    assert_one_line(*main("push", folder, name, "--quiet"), ("ORG/NAME", name))
    assert hub.asked == []


class TestFolders:
    """Refused before anything is asked of the hub."""

    def test_that_is_not_there(self, hub: Hub, tmp_path: Path, main: Main) -> None:
        assert_one_line(*main("push", tmp_path / "none", NAME, "--quiet"), ("a folder with a checkpoint", "nothing"))
        assert hub.asked == []

    def test_without_a_config(self, hub: Hub, folder: Path, main: Main) -> None:
        (folder / "config.json").unlink()
        assert_one_line(*main("push", folder, NAME, "--quiet"), ("a checkpoint", "no config.json"))
        assert hub.asked == []

    def test_of_pickles(self, hub: Hub, folder: Path, main: Main) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        assert_one_line(*main("push", folder, NAME, "--quiet"), ("safetensors weights", "pickled"))
        assert hub.asked == []

    def test_cut_short(self, hub: Hub, folder: Path, main: Main) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        assert_one_line(*main("push", folder, NAME, "--quiet"), ("a whole safetensors file",))
        assert hub.asked == []

    def test_that_would_not_open(self, hub: Hub, folder: Path, main: Main) -> None:
        (folder / "lowrise" / "plan.json").unlink()  # lowrise did not write it
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such"}))
        assert_one_line(*main("push", folder, NAME, "--quiet"), ("no-such",))
        assert hub.asked == []


def test_code_goes_where_the_config_refers_to_it(folder: Path) -> None:
    weights = [folder / "model.safetensors"]
    assert files_to_send(folder, weights) == SENT
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    assert files_to_send(folder, weights) == sorted([*SENT, "code.py"])


class TestWithACut:
    def test_run_sends_what_it_wrote(
        self, hub: Hub, tiny_folder: Path, text_file: Path, tmp_path: Path, main: Main
    ) -> None:
        out = tmp_path / "out"
        status, _, err = main("run", tiny_folder, "--out", out, "--text", text_file, "--push", NAME, *PLAIN[:-1])
        assert status == 0, err
        assert f"{hub.address}/{NAME}" in "".join(err.split())
        files = hub.files(NAME)
        assert {"lowrise/plan.json", "lowrise/results.json", "README.md", "model.safetensors"} <= files.keys()
        assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()

    def test_what_cannot_be_sent_is_refused_before_anything(
        self, hub: Hub, tiny_folder: Path, text_file: Path, tmp_path: Path, main: Main
    ) -> None:
        hub.make(NAME, old=b"1")
        out = tmp_path / "out"
        refused = main("run", tiny_folder, "--out", out, "--text", text_file, "--push", NAME, *PLAIN)
        assert_one_line(*refused, ("not there yet", "--force"))
        refused = main("run", tiny_folder, "--out", out, "--text", text_file, "--private", *PLAIN)
        assert_one_line(*refused, ("--private", "--push"))
        assert not out.exists()


def test_nothing_is_asked_without_the_name(
    hub: Hub, tiny_folder: Path, text_file: Path, tmp_path: Path, main: Main
) -> None:
    status, _, err = main("run", tiny_folder, "--out", tmp_path / "out", "--text", text_file, *PLAIN)
    assert status == 0, err
    assert hub.asked == []


def test_the_command_line_needs_none_of_the_hub() -> None:
    check = "import lowrise.cli, lowrise, sys; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
