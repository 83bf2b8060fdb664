"""Plans for something else, and places where nothing can be written."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowrise.errors import RecipeError
from lowrise.files import exchange
from refusals import PLAIN, Main, Refused, assert_one_line, contents, copied, mark, without_work
from warm import Warm


class TestPlan:
    @pytest.fixture
    def plan_refused(
        self, refused: Refused, tiny_folder: Path, place: Path, tmp_path: Path
    ) -> Callable[[str | bytes, tuple[object, ...]], str]:
        """`lowrise apply` with a plan file of this content."""

        def run(content: str | bytes, says: tuple[object, ...]) -> str:
            file = tmp_path / "plan.json"
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            return refused("apply", tiny_folder, file, "--quiet", "--out", place / "out", says=says)

        return run

    def test_the_plan_that_these_tests_spoil_is_sound(
        self, main: Main, scratch: Path, place: Path, tmp_path: Path, tiny_folder: Path, tiny_plan: dict[str, Any]
    ) -> None:
        (tmp_path / "plan.json").write_text(json.dumps(tiny_plan), encoding="utf-8")
        status, _, err = main("apply", tiny_folder, tmp_path / "plan.json", "--quiet", "--out", place / "out")
        assert (status, err) == (0, "")
        assert not list(scratch.iterdir())

    def test_missing(self, refused: Refused, tiny_folder: Path, place: Path, tmp_path: Path) -> None:
        file = tmp_path / "none.json"
        refused("apply", tiny_folder, file, "--out", place / "out", says=(file, "a plan file", "No such file"))

    def test_a_folder(self, refused: Refused, tiny_folder: Path, place: Path, tmp_path: Path) -> None:
        refused("apply", tiny_folder, tmp_path, "--out", place / "out", says=(tmp_path, "a plan file", "directory"))

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", ("plan.json", "a plan of format 1", "JSON")),
            ("not json", ("plan.json", "a plan of format 1", "JSON")),
            ("[]", ("plan.json", "a plan of format 1")),
            ("{}", ("plan.json: model", "Field required")),
            (b"\xff\xfe\x00", ("plan.json", "UTF-8")),
            ("[" * 5000, ("plan.json", "a plan of format 1")),
        ],
        ids=["empty", "words", "list", "empty object", "bytes", "deep nesting"],
    )
    def test_no_plan(
        self, plan_refused: Callable[[Any, Any], str], content: str | bytes, says: tuple[str, ...]
    ) -> None:
        plan_refused(content, says)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"format": 3}, ("plan.json: format", "a plan of format 1 or 2")),
            ({"extra": 1}, ("plan.json: extra", "not permitted")),
            ({"edits": [{"kind": "split", "start": 1, "stop": 3}]}, ("plan.json: edits.0", "split")),
            ({"edits": [{"kind": "merge", "start": 1, "stop": 2}]}, ("plan.json: edits.0", "two layers or more")),
            (
                {"edits": [{"kind": "drop", "start": 1, "stop": 3}, {"kind": "drop", "start": 2, "stop": 4}]},
                ("plan.json", "edits overlap at layer 2"),
            ),
            ({"edits": [{"kind": "drop", "start": 5, "stop": 9}]}, ("plan.json", "ends at layer 9", "model's 6")),
            ({"edits": [{"kind": "drop", "start": -1, "stop": 1}]}, ("plan.json: edits.0", "start")),
            ({"edits": [{"kind": "drop", "start": 3, "stop": 3}]}, ("plan.json: edits.0", "[3, 3) is empty")),
            ({"edits": [{"kind": "drop", "start": 0, "stop": 6}], "layers_after": 0}, ("plan.json", "layers_after")),
            ({"layers_after": 5}, ("plan.json", "layers_after is 5", "leave 4")),
            ({"edits": "none"}, ("plan.json: edits", "list")),
            ({"parameters_before": -1}, ("plan.json: parameters_before", "greater than 0")),
            ({"parameters_after": 0}, ("plan.json: parameters_after", "greater than 0")),
            ({"edits": [{"kind": "drop", "start": 1, "stop": 10**30}]}, ("plan.json: edits.0", "stop")),
            (
                {"edits": [{"kind": "merge", "start": 1, "stop": 4, "weights": [1e9, -1e9, 1]}]},
                ("plan.json: edits.0", "weights"),
            ),
            ({"scores": {"held_out": 3}}, ("plan.json", "held_out")),
            ({"settings": {"device": "cpu"}}, ("plan.json", "'device'", "none that a plan holds")),
            ({"settings": {"samples": 0}}, ("plan.json: samples", "greater than 0")),
            ({"settings": {"select": "guess"}}, ("plan.json: select", "guess")),
            ({"preset": "streamlin"}, ("'streamlin'", "did you mean streamline")),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
    )
    def test_unusable(
        self,
        plan_refused: Callable[[Any, Any], str],
        tiny_plan: dict[str, Any],
        changes: dict[str, Any],
        says: tuple[str, ...],
    ) -> None:
        plan_refused(json.dumps(tiny_plan | changes), says)

    def test_calibration_that_cannot_be_is_laid_at_the_plans_door(
        self, plan_refused: Callable[[Any, Any], str], tiny_plan: dict[str, Any]
    ) -> None:
        """The user gave no --samples: the line must point at the plan file."""
        impossible = [
            {"samples": 0},
            {"samples": 10**12},
            {"length": 1},
            {"length": 2**40},
            {"tokens": -1},
            {"seed": -1},
        ]
        for changes in [
            *impossible,
            {"seed": -1},
            {"seed": 2**64},
            {"held_out": 1.5},
            {"held_out": 0},
            {"written": -1},
        ]:
            calibration = tiny_plan["calibration"] | changes
            plan_refused(json.dumps(tiny_plan | {"calibration": calibration}), ("plan.json",))

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"family": "qwen2"}, ("a model with family qwen2", "family llama in ")),
            ({"sha256": "f" * 64}, ("a model with sha256 ffff", "found sha256 ")),
            ({"layers": 8}, ("a model with layers 8", "layers 6 in ")),
        ],
    )
    def test_for_another_model(
        self,
        plan_refused: Callable[[Any, Any], str],
        tiny_plan: dict[str, Any],
        changes: dict[str, Any],
        says: tuple[str, ...],
    ) -> None:
        model = tiny_plan["model"] | changes
        plan = tiny_plan | {"model": model, "layers_after": model["layers"] - 2}
        plan_refused(json.dumps(plan), (f"plan for {model['source']}", *says))


class TestOutput:
    @pytest.fixture
    def old(self, place: Path) -> Path:
        """Something that stands where the result should go."""
        out = place / "out"
        (out / "within").mkdir(parents=True)
        (out / "within" / "precious.txt").write_text("precious", encoding="utf-8")
        mark(out)
        return out

    @pytest.mark.usefixtures("old")
    def test_folder_that_exists(self, run_refused: Refused) -> None:
        run_refused(says=("out: expected a folder that does not exist yet", "--force"))

    @pytest.mark.usefixtures("old")
    def test_folder_that_exists_under_apply(
        self, refused: Refused, tiny_folder: Path, place: Path, tmp_path: Path, tiny_plan: dict[str, Any]
    ) -> None:
        (tmp_path / "plan.json").write_text(json.dumps(tiny_plan), encoding="utf-8")
        refused("apply", tiny_folder, tmp_path / "plan.json", "--out", place / "out", says=("--force",))

    @pytest.mark.parametrize("command", ["plan", "measure"])
    def test_file_that_exists(self, refused: Refused, place: Path, tiny_folder: Path, command: str) -> None:
        (place / "out.json").write_text("precious", encoding="utf-8")
        says = ("a file that does not exist yet", "--force")
        refused(command, tiny_folder, "--quiet", "--out", place / "out.json", says=says)

    @pytest.mark.parametrize("command", ["plan", "measure"])
    @pytest.mark.usefixtures("old")
    def test_folder_where_a_file_belongs(
        self, refused: Refused, place: Path, tiny_folder: Path, text_file: Path, command: str
    ) -> None:
        few = ["--samples", 4] if command == "plan" else ["--windows", 1]
        options = ["--quiet", "--text", text_file, "--length", 32, *few, "--force"]
        refused(command, tiny_folder, *options, "--out", place / "out", says=("expected a file", "folder"))

    def test_file_where_a_folder_belongs(self, run_refused: Refused, place: Path) -> None:
        (place / "out").write_text("precious", encoding="utf-8")
        run_refused("--force", says=("out: expected a folder, found a file",))

    def test_below_a_file(self, run_refused: Refused, text_file: Path) -> None:
        run_refused("--out", text_file / "out", says=(text_file, "a place that can be written"))

    def test_name_too_long(self, run_refused: Refused, place: Path) -> None:
        run_refused("--out", place / ("x" * 300), says=("xxx", "too long"))

    def test_name_too_long_with_the_mark_of_the_unfinished(self, run_refused: Refused, place: Path) -> None:
        """The temporary sibling's name is longer than the folder's own."""
        run_refused("--out", place / ("x" * 250), says=("xxx", "too long"))

    def test_the_folder_one_stands_in(self, run_refused: Refused, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It cannot be renamed, so it cannot be replaced."""
        monkeypatch.chdir(old)
        run_refused("--force", "--out", ".", says=("expected",))

    @pytest.mark.usefixtures("old")
    def test_with_force_the_old_folder_outlives_a_run_that_fails_early(self, run_refused: Refused) -> None:
        run_refused("--force", "--remove", 6, says=("--remove",))

    @pytest.mark.usefixtures("old")
    def test_with_force_the_old_folder_outlives_a_run_that_fails_while_writing(
        self, run_refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = OSError(28, "No space left on device")

        def fail(*_: object, **__: object) -> None:
            raise full

        monkeypatch.setattr("lowrise.pipeline.building.build_report", fail)
        run_refused("--force", says=("out: expected room to write", "No space left on device"), keeps=True)

    def test_with_force_the_old_folder_outlives_a_rename_that_fails(
        self, run_refused: Refused, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The very last step fails: the new folder cannot take the old one's name."""
        rename = exchange.rename

        def fail(path: Path, target: Path, flags: int) -> None:
            if target == old and flags == 2:
                raise OSError(28, "No space left on device")
            rename(path, target, flags)

        monkeypatch.setattr(exchange, "rename", fail)
        run_refused("--force", says=("out: expected room to write",), keeps=True)

    def test_with_force_success_replaces_the_old_folder(
        self, main: Main, scratch: Path, old: Path, place: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        status, _, err = main("run", tiny_folder, *PLAIN, "--text", text_file, "--force", "--out", old)
        assert (status, err) == (0, "")
        assert not list(scratch.iterdir())
        assert not (old / "within").exists()
        assert (old / "config.json").is_file()
        assert [path.name for path in place.iterdir()] == ["out"]

    def test_what_appears_while_the_run_works_is_kept_and_so_is_the_result(
        self, main: Main, place: Path, tiny_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def late(_folder: Path) -> dict[str, str]:
            (place / "out").mkdir()
            (place / "out" / "precious.txt").write_text("precious", encoding="utf-8")
            return {}

        monkeypatch.setattr("lowrise.pipeline.building.build_report", late)
        ended = main("run", tiny_folder, *PLAIN, "--text", text_file, "--out", place / "out")
        assert_one_line(*ended, ("which is kept", f"the finished result lies in {place / 'out.finished'}"))
        assert contents(place / "out") == {"precious.txt": b"precious"}
        assert (place / "out.finished" / "model.safetensors").is_file()
        assert sorted(path.name for path in place.iterdir()) == ["out", "out.finished"]

    @pytest.mark.parametrize("option", ["--text", "--eval-text", "--recipe"])
    def test_a_folder_that_holds_an_input_is_not_replaced(self, run_refused: Refused, old: Path, option: str) -> None:
        (old / "given").write_text("seed: 1" if option == "--recipe" else "text", encoding="utf-8")
        run_refused("--force", option, old / "given", says=(f"{old / 'given'} in it",))

    def test_a_folder_of_others_is_not_replaced(self, run_refused: Refused, place: Path) -> None:
        (place / "out").mkdir()
        (place / "out" / "precious.txt").write_text("precious", encoding="utf-8")
        run_refused("--force", says=("out: expected an empty folder or an output of lowrise", "did not write"))

    def test_the_model_as_a_file_is_not_replaced(self, refused: Refused, place: Path, text_file: Path) -> None:
        """`--out` names what is measured."""
        (place / "model.gguf").write_text("weights", encoding="utf-8")
        options = ["--text", text_file, "--out", place / "model.gguf", "--force"]
        refused("measure", place / "model.gguf", *options, says=("this run needs",))

    def test_a_second_run_at_the_same_place(self, run_refused: Refused, place: Path) -> None:
        with (place / ".out.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            run_refused(says=("out: expected a place that is free, found another lowrise process at work for it",))

    def test_parents_made_for_a_run_that_fails_are_taken_away(
        self, run_refused: Refused, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RecipeError("--tasks", "some", "others", "choose")

        monkeypatch.setattr("lowrise.pipeline.building.build_report", fail)
        run_refused("--out", place / "a" / "b" / "out", says=("--tasks: expected some",))

    def test_parents_of_what_a_run_without_room_has_kept_stay(
        self, run_refused: Refused, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lowrise.pipeline.building.build_report", fail)
        run_refused("--out", place / "a" / "b" / "out", says=("out: expected room to write",), keeps=True)

    def test_the_model_itself_is_not_replaced(
        self, main: Main, scratch: Path, tmp_path: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        before = contents(folder)
        status, out, err = main("run", folder, *PLAIN, "--text", text_file, "--force", "--out", folder)
        assert contents(folder) == before
        assert_one_line(status, out, err, (folder, "model"))
        assert not list(scratch.iterdir())


class TestFullDisk:
    """In a process of its own that may not write a file larger than `limit` bytes, as on a disk that fills."""

    @pytest.fixture
    def limited(self, place: Path, scratch: Path) -> Callable[..., None]:
        def run(limit: int, *arguments: object, says: tuple[object, ...]) -> None:
            before = contents(place)
            # pipes, as files of output would be limited too; what is said fits into their room
            (read_out, out), (read_err, err) = os.pipe(), os.pipe()
            process = Warm([*arguments], out, err, largest_file=limit)
            for end in (out, err):
                os.close(end)
            status = process.wait(120)
            with os.fdopen(read_out) as printed, os.fdopen(read_err) as said:
                assert_one_line(status, printed.read(), said.read(), says)
            assert without_work(contents(place))[0] == before  # with more room the same command goes on
            assert not list(scratch.glob("lowrise-*"))

        return run

    @pytest.mark.parametrize("limit", [100, 100_000], ids=["config", "weights"])
    def test_while_the_checkpoint_is_written(
        self, limited: Callable[..., None], limit: int, place: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        out = place / "new" / "out"
        options = [*PLAIN, "--text", text_file]
        limited(limit, "run", tiny_folder, *options, "--out", out, says=(f"{out}: expected room", "too large"))

    def test_with_force_the_old_folder_stays(
        self, limited: Callable[..., None], place: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        out = place / "out"
        out.mkdir()
        (out / "precious.txt").write_text("precious", encoding="utf-8")
        mark(out)
        options = [*PLAIN, "--text", text_file, "--force"]
        limited(100_000, "run", tiny_folder, *options, "--out", out, says=(f"{out}: expected room", "too large"))

    def test_while_the_plan_is_written(
        self, limited: Callable[..., None], place: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        options = [*PLAIN, "--text", text_file]
        limited(100, "plan", tiny_folder, *options, "--out", place / "p.json", says=("p.json: expected room", "large"))

    def test_while_training_pairs_are_kept(
        self, limited: Callable[..., None], place: Path, scratch: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        options = [*PLAIN, "--preset", "streamline", "--max-ram", 0, "--text", text_file]
        says = (f"{scratch}: expected", "room for training pairs", "TMPDIR", "--max-ram")
        limited(10_000, "run", tiny_folder, *options, "--out", place / "out", says=says)
