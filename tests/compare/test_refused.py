"""What `lowrise compare` refuses: one line, exit 2, and the disk as it was."""

from __future__ import annotations

import fcntl
import shutil
import sys
from pathlib import Path

import pytest

import tiny
from comparisons import SMALL, Arguments, row_states
from refusals import Main, assert_one_line, contents, edit_config


class TestRefused:
    """One line, exit 2, and nothing written or changed."""

    @pytest.mark.usefixtures("no_tasks_of_lm_eval")
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (["--presets", "streamline-none,lacoo,laco"], ("preset 'lacoo'", "did you mean laco")),
            (["--presets", ""], ("--presets", "found none")),
            (["--presets", "laco,,streamline"], ("--presets", "an empty place in 'laco,,streamline'")),
            (["--presets", "laco, laco"], ("--presets", "'laco' twice")),
            (["--remove", ","], ("--remove", "found none")),
            (["--remove", "2,1,2"], ("--remove", "'2' twice")),
            (["--remove", "2,25%"], ("--remove", "2 and 25%, both 2 of 6 layers")),
            (["--remove", "2,6"], ("--remove: expected 1 to 5 of the 6 layers", "found '6'")),
            (["--remove", "2,many"], ("--remove", "'many'")),
            (["--eval-text", "none.txt"], ("none.txt", "No such file")),
            (["--length", "1"], ("length", "greater than 1")),
            (["--max-ram", "lots"], ("--max-ram",)),
            (["--threshold", "0.5"], ("--remove and --threshold",)),
            (["--tasks", "no_such_task"], ("no_such_task",)),
            (["--tasks", "tiny_words", "--task-dir", "nowhere"], ("nowhere",)),
            (["--limit", "0"], ("limit", "greater than 0")),
            # what a preset can never do at one of the sizes
            (
                ["--presets", "tail,taylor", "--remove", "1"],
                ("--presets taylor --remove 1: --remove: expected at most 0 layers", "leave out that preset"),
            ),
            (["--presets", "tail,lorp", "--remove", "4,5"], ("--presets lorp --remove 5", "at most 4 layers")),
            (["--presets", "laco", "--remove", "5"], ("--presets laco --remove 5", "at most 4 layers")),
            (["--presets", "given"], ("--presets given --remove 1", "--layers")),
            # of presets that are not asked for
            (["--form", "paperr"], ("--form", "'portable'", "'paperr'")),
            (["--loss", "l1"], ("--loss", "'relative'", "'l1'")),
            (["--search-budget", "0"], ("--search-budget", "greater than or equal to 0.1")),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_before_anything_is_written(
        self, main: Main, ran: list[str], asked: Arguments, tmp_path: Path, changes: list[str], says: tuple[str, ...]
    ) -> None:
        before = contents(tmp_path)
        assert_one_line(*main(*asked, *changes), says)
        assert contents(tmp_path) == before
        assert ran in ([], ["preparing"])

    @pytest.mark.parametrize("force", [[], ["--force"]])
    @pytest.mark.parametrize("file", ["precious.txt", "comparison.json"])
    def test_a_folder_that_is_no_comparison(
        self, main: Main, ran: list[str], asked: Arguments, tmp_path: Path, file: str, force: list[str]
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / file).write_text("{}")
        line = assert_one_line(*main(*asked, *force), ("expected a comparison to go on with, or nothing",))
        assert str(tmp_path / "out") in line
        assert (tmp_path / "out" / file).read_text() == "{}"
        assert ran == []

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (["--seed", "1"], ("seed 0, with which it was begun", "found 1")),
            (["--length", "16"], ("length 32", "found 16")),
            (["--avoid-massive"], ("avoid_massive False",)),
            (["--presets", "streamline-none"], ("laco-last at 1", "--force")),
            (["--remove", "2"], ("streamline-none at 1",)),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_other_settings_name_the_first_difference(
        self, main: Main, begun: Arguments, tmp_path: Path, changes: list[str], says: tuple[str, ...]
    ) -> None:
        before = contents(tmp_path)
        assert_one_line(*main(*begun, *changes), says)
        assert contents(tmp_path) == before

    def test_a_text_that_changed(self, main: Main, begun: Arguments, tmp_path: Path) -> None:
        (tmp_path / "own.txt").write_text(tiny.text(seed=5))
        assert_one_line(*main(*begun), ("own.txt as it was when the comparison was begun", "sha256"))

    def test_a_model_that_changed(self, main: Main, begun: Arguments, ran: list[str], tmp_path: Path) -> None:
        shutil.copy(tiny.save(tmp_path / "other", seed=1) / "model.safetensors", tmp_path / "model")
        assert_one_line(*main(*begun), ("the model it was begun with", "sha256"))
        assert ran == ["preparing"]

    def test_a_folder_at_which_another_process_works(self, main: Main, begun: Arguments, tmp_path: Path) -> None:
        with (tmp_path / ".out.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert_one_line(*main(*begun), ("another lowrise process at work for it",))

    @pytest.mark.usefixtures("ran")
    def test_a_row_that_is_added_and_can_never_be(self, main: Main, asked: Arguments, tmp_path: Path) -> None:
        assert main(*asked, "--presets", "tail", "--remove", "1")[0] == 0
        before = contents(tmp_path) | {"out/prepare.txt": None}  # the refused step's own log
        assert_one_line(*main(*asked, "--presets", "tail,taylor", "--remove", "1"), ("--presets taylor --remove 1",))
        assert contents(tmp_path) | {"out/prepare.txt": None} == before

    def test_force_begins_anew(self, main: Main, begun: Arguments, ran: list[str], tmp_path: Path) -> None:
        assert main(*begun, "--force", "--seed", "1", "--presets", "streamline-none", "--remove", "1")[0] == 0
        assert list(row_states(tmp_path / "out")) == ["streamline-none-1"]
        assert ran == ["preparing", "the dense model", "streamline-none, 1 layer"]

    @pytest.fixture
    def begun(self, asked: Arguments, tiny_folder: Path, tmp_path: Path, ran: list[str], main: Main) -> Arguments:
        """A command whose folder is there, prepared, all rows still to come; its model and text may be changed."""
        (tmp_path / "own.txt").write_text(tiny.text())
        shutil.copytree(tiny_folder, tmp_path / "model")
        command = [asked[0], tmp_path / "model", *asked[2:], "--text", tmp_path / "own.txt"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("lowrise.compare.measure_dense", lambda *_: sys.exit(130))
            status, _, err = main(*command)
            assert status == 130, err
        ran.clear()
        return command


@pytest.mark.usefixtures("ran")
def test_a_network_that_the_family_cannot_have(main: Main, text_file: Path, tmp_path: Path) -> None:
    """OPT has no gated MLP for the portable swiglu."""
    model = tiny.save(tmp_path / "opt", "opt")
    chosen = ["--presets", "streamline-none,streamline-swiglu", "--form", "portable", "--remove", 1]
    said = main("compare", model, *chosen, "--text", text_file, *SMALL, "--out", tmp_path / "out")
    assert_one_line(*said, ("--presets streamline-swiglu --remove 1", "a gated MLP"))
    assert not (tmp_path / "out").exists()


def test_a_setting_of_the_config_is_no_reason_to_crash(
    main: Main, ran: list[str], asked: Arguments, tiny_folder: Path, tmp_path: Path
) -> None:
    """A model that cannot be opened ends the comparison before its folder is made."""
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    edit_config(model, model_type="nonsense")
    assert_one_line(*main("compare", model, *asked[2:]), ("nonsense",))
    assert not (tmp_path / "out").exists()
    assert ran == ["preparing"]
