"""Room on disk and in memory, asked for before anything heavy, for every command that a bound goes with."""

from __future__ import annotations

import tempfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrise.compare.steps import _options
from lowrise.files.temporary import temporary_file
from lowrise.model.source import open_model
from lowrise.observe import activation_store
from lowrise.recipe import Recipe
from lowrise.results import Estimate as Estimated
from lowrise.store import Memory
from refusals import assert_one_line, contents

Main = Callable[..., tuple[int, str, str]]
ROOMY = "64GB"
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def asked(tiny_folder: Path, text_file: Path) -> list[Any]:
    preset = ["--preset", "block-influence", "--repair", "refit", "--remove", 2]
    return [tiny_folder, *preset, "--text", text_file, "--samples", 8, "--length", 32, "--device", "cpu"]


def test_the_dense_model_of_a_comparison_is_measured_under_the_same_bound() -> None:
    options = _options(Recipe(model="m", preset="refit", remove=1, memory="2GB"))
    assert options[options.index("--memory") + 1] == "2GB"


@pytest.mark.parametrize("command", ["run", "plan", "apply"])
def test_a_dry_run_refuses_a_bound_that_the_run_would_refuse(
    main: Main, asked: list[Any], tmp_path: Path, command: str
) -> None:
    plan = tmp_path / "plan.json"
    assert main("plan", *asked, "--out", plan, "--quiet")[0] == 0
    arguments = [asked[0], plan] if command == "apply" else asked
    before = contents(tmp_path)
    ran = main(command, *arguments, "--out", tmp_path / "out", "--memory", "10MB", "--dry-run")
    assert_one_line(*ran, ("--memory 10MB", "at least", "for this model, found less; say --memory"))
    assert contents(tmp_path) == before


def test_a_disk_without_room_for_the_output_is_one_line_before_anything_heavy(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    monkeypatch.setattr("lowrise.pipeline.estimating.shutil.disk_usage", lambda _: USAGE(10, 9, 1000))
    status, _, errors = main("run", *asked, "--out", tmp_path / "out")
    last = errors.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith(f"lowrise: {tmp_path / 'out'}: expected about")
    assert "of room for it, found 1MB free; free space" in last
    assert not (tmp_path / "out").exists()


def test_a_disk_that_may_not_suffice_meanwhile_is_a_warning(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    status, said, _ = main("run", *asked, "--out", tmp_path / "first", "--dry-run", "--json", "--quiet")
    assert status == 0
    kept = Estimated.model_validate_json(said).kept_bytes
    monkeypatch.setattr("lowrise.pipeline.estimating.shutil.disk_usage", lambda _: USAGE(10, 9, kept + 1))
    status, _, errors = main("run", *asked, "--out", tmp_path / "out")
    assert status == 0, errors
    assert "the disk may not suffice: about" in errors


def test_of_a_folder_that_is_not_there_yet_the_one_above_it_has_the_room(
    main: Main, asked: list[Any], text_file: Path, tmp_path: Path
) -> None:
    for name in ("run", "measure"):
        more = asked[1:7] if name == "run" else []
        out = tmp_path / name / "new" / "out"
        given = [*more, "--text", text_file, "--length", 32, "--device", "cpu", "--memory", ROOMY, "--out", out]
        status, _, errors = main(name, asked[0], *given)
        assert status == 0, errors
        assert out.exists()
        assert "may not suffice" not in errors


def test_a_bound_has_room_for_what_the_student_takes_in_training(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tiny_folder: Path, tmp_path: Path
) -> None:
    assert main("run", *asked, "--out", tmp_path / "cut", "--quiet")[0] == 0
    monkeypatch.setattr("lowrise.pipeline.healing._LEARNING", 1 << 30)
    data = ["--text", asked[asked.index("--text") + 1], "--length", 32, "--device", "cpu", "--quiet"]
    arguments = ["--tokens", 512, *data, "--memory", ROOMY, "--out", tmp_path / "out"]
    ran = main("heal", tmp_path / "cut", "--dense", tiny_folder, *arguments)
    assert_one_line(*ran, ("--memory 64GB", "for what the student's training takes on this model", "say --memory"))
    assert not (tmp_path / "out").exists()


def test_more_memory_than_the_bound_is_said_at_the_end(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    monkeypatch.setattr("lowrise.pipeline.estimating.peak_memory", lambda *_: {"peak_resident_bytes": 65_000_000_000})
    status, _, errors = main("run", *asked, "--out", tmp_path / "out", "--memory", ROOMY)
    assert status == 0, errors
    assert "of memory were taken, more than --memory 64GB" in errors


def test_states_lie_where_the_layers_do(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    """A folder of temporary files may lie in memory, which no bound would see."""
    seen: list[Path | None] = []

    def noted(prefix: str, folder: Path | None = None) -> Any:
        seen.append(folder)
        return temporary_file(prefix, folder)

    monkeypatch.setattr(activation_store, "temporary_file", noted)
    for memory in ([], ["--memory", ROOMY]):
        assert main("run", *asked, "--out", tmp_path / f"out{len(memory)}", *memory, "--quiet")[0] == 0
    count = seen.index(tmp_path)
    assert set(seen[:count]) == {None}
    assert set(seen[count:]) == {tmp_path}


def test_no_folder_for_temporary_files_is_one_line(
    main: Main, monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    ran = main("run", *asked, "--out", tmp_path / "out", "--quiet")
    assert_one_line(*ran, ("TMPDIR", "No space left on device", "set TMPDIR to a folder on a disk with room"))


def test_of_what_can_lie_on_disk_a_quarter_of_the_bound_stays_in_memory(tiny_folder: Path, tmp_path: Path) -> None:
    bounded = open_model(str(tiny_folder), device="cpu", memory=Memory(ROOMY, tmp_path)).decoder.store
    free = open_model(str(tiny_folder), device="cpu").decoder.store
    assert (bounded.at_most(10**12), bounded.at_most(5), free.at_most(10**12)) == (16 * 10**9, 5, 10**12)
