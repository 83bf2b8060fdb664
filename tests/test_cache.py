"""Kept measurements: found again, trusted only when whole, shown and cleared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise.heal.teacher import Resident, Stored
from lowrise.measure.cache import Cache, cache_folder
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from refusals import PLAIN

Main = Callable[..., tuple[int, str, str]]
KEY = {"what": "task", "model": {"weights": "a"}}


@pytest.fixture
def kept(cache: Path) -> Cache:
    made = Cache(cache, Reporter(quiet=True))
    made.write(KEY, {"acc": 0.1, "loss": float("inf")}, {"what": "task t, 3 items", "model": "m"})
    return made


def only(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_what_is_written_is_read_and_nothing_else(kept: Cache) -> None:
    assert kept.read(KEY) == {"acc": 0.1, "loss": float("inf")}
    assert kept.read({**KEY, "limit": 1}) is None
    assert kept.progress.warnings == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: "", "Expecting value"),
        (lambda text: text[: len(text) // 2], "not trusted"),
        (lambda _: "[]", "another measurement"),
        (lambda _: "[" * 100_000, "not trusted"),
        (lambda text: text.replace('"acc": 0.1', '"acc": 0.9'), "checksum"),
        (lambda text: text.replace('"weights": "a"', '"weights": "b"'), "another measurement"),
        (lambda text: text.replace("value", "valeu"), "checksum"),
        (lambda _: "\x00\udcff", "not trusted"),
    ],
)
def test_a_spoiled_entry_is_not_trusted(kept: Cache, spoil: Callable[[str], str], reason: str) -> None:
    file = only(kept.folder)
    file.write_bytes(spoil(file.read_text()).encode(errors="surrogateescape"))
    assert kept.read(KEY) is None
    assert reason in kept.progress.warnings[0]
    assert "measured again" in kept.progress.warnings[0]
    kept.write(KEY, 1, {})
    assert kept.read(KEY) == 1


def test_a_folder_that_cannot_be_written_costs_a_word_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "below", Reporter())
    cache.write(KEY, 1, {})
    assert "not kept" in capsys.readouterr().err


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("LOWRISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lowrise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lowrise"


def test_the_command_shows_and_clears_only_what_is_its_own(main: Main, kept: Cache) -> None:
    foreign = kept.folder / "notes.json"
    foreign.write_text("{}")
    name = only_entry(kept.folder).name
    (kept.folder / f".{name}.x1y2.partial").write_text("half")  # what a killed process leaves
    status, printed, _ = main("cache")
    assert status == 0
    assert "task t, 3 items  m" in printed
    assert f"1 measurements, {only_entry(kept.folder).stat().st_size} bytes in {kept.folder}" in printed
    shown: dict[str, Any] = json.loads(main("cache", "--json")[1])
    assert [entry["what"] for entry in shown["entries"]] == ["task t, 3 items"]
    assert main("cache", "--clear")[:2] == (0, "removed 1\n")
    assert list(kept.folder.iterdir()) == [foreign]
    assert main("cache", "--clear")[:2] == (0, "removed 0\n")


@pytest.mark.parametrize("text", ['{"about": 3}', '{"about": {}}', '{"about": {"what": 1}}', "[" * 100_000, "null"])
def test_a_damaged_entry_is_shown_as_such(main: Main, kept: Cache, text: str) -> None:
    only(kept.folder).write_text(text)
    status, printed, _ = main("cache")
    assert (status, "damaged: will be measured again" in printed) == (0, True)


def test_what_is_no_file_is_cleared_too(main: Main, kept: Cache) -> None:
    (kept.folder / f"{'0' * 64}.json").mkdir()
    assert main("cache", "--clear")[:2] == (0, "removed 2\n")


def test_stored_teachers_are_shown_and_cleared(main: Main, kept: Cache) -> None:
    """Nothing else that lies there is."""
    folder, foreign = kept.folder / "targets" / ("0a" * 8), kept.folder / "targets" / "notes"
    for one in (folder, foreign):
        one.mkdir(parents=True)
    decoder = Decoder(tiny.model("llama"))
    ids, counted = tiny.ids(4, 12), torch.ones(4, 12, dtype=torch.bool)
    stored = Stored(folder, counted[:, 1:].sum(1), 12)
    stored.make(Resident(decoder, 1.0), ids, counted, Reporter(quiet=True))
    (folder / ".targets-00001.safetensors.0123abcd.partial").write_bytes(b"half")
    size = stored.file(0).stat().st_size + 4
    assert size == pytest.approx(stored.bytes, rel=0.05)
    status, printed, _ = main("cache")
    assert status == 0
    assert f"{size:,}  stored teacher, {4 * 11} tokens\n" in printed
    assert f"1 stored teachers, {size:,} bytes in {kept.folder}\n" in printed
    entries = json.loads(main("cache", "--json")[1])["entries"]
    assert [(entry["bytes"], entry["file"]) for entry in entries[1:]] == [(size, str(folder))]
    assert main("cache", "--clear")[:2] == (0, "removed 2\n")
    assert list(kept.folder.rglob("*")) == [kept.folder / "targets", foreign]
    assert main("cache", "--clear")[:2] == (0, "removed 0\n")


def only_entry(folder: Path) -> Path:
    (file,) = (file for file in folder.iterdir() if len(file.name) == 69)
    return file


def test_without_a_folder_there_is_nothing_to_show(main: Main, cache: Path) -> None:
    assert main("cache")[:2] == (0, f"0 measurements, 0 bytes in {cache}\n")
    assert main("cache", "--clear")[0] == 0
    assert not cache.exists()


def test_samples_of_text_are_written_once_a_model(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense model's, too: a second run, of another size, has its own compressed model write, and nothing else."""
    from lowrise.measure.samples import continuations
    from lowrise.pipeline import measuring

    wrote: list[int] = []

    def counted(decoder: Any, *others: Any) -> dict[str, str]:
        wrote.append(decoder.depth)
        return continuations(decoder, *others)

    monkeypatch.setattr(measuring, "continuations", counted)
    shown = []
    for name, removed in (("one", 1), ("two", 2), ("again", 2)):
        assert (
            main("run", tiny_folder, *PLAIN, "--remove", removed, "--text", text_file, "--out", tmp_path / name)[0] == 0
        )
        shown.append(json.loads((tmp_path / name / "lowrise/results.json").read_text())["samples"])
    assert wrote == [6, 5, 4]
    assert [sample["dense"] for sample in shown[0]] == [sample["dense"] for sample in shown[1]]
    assert shown[1] == shown[2]
    assert len(shown[0]) == 3
