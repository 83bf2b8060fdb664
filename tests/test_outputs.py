"""Outputs: who may write where, what is kept, what is put back, what dead processes left."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowrise.errors import OutputError
from lowrise.files import check_file, check_output, claimed, exchange, held, output_folder, write_file
from refusals import contents, mark


@pytest.fixture(params=["renameat2", "without it"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for an output, with the system's one-step exchange and where there is none."""
    if request.param == "without it":
        monkeypatch.setattr(exchange, "rename", absent)
    return tmp_path / "place" / "out"


def absent(_path: Path, target: Path, _flags: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target))


def made(folder: Path, text: str = "old") -> Path:
    """As if lowrise had written it."""
    folder.mkdir(parents=True)
    mark(folder)
    (folder / "text").write_text(text)
    return folder


def write(out: Path, force: bool = False) -> None:
    with claimed(out, force), output_folder(out, force) as folder:
        mark(folder)
        (folder / "text").write_text("new")


def test_it_is_there_and_nothing_else(out: Path) -> None:
    write(out)
    assert (out / "text").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_with_force_the_new_one_takes_the_place_of_the_old(out: Path) -> None:
    made(out)
    write(out, force=True)
    assert (out / "text").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_through_a_link_the_folder_it_points_to_is_replaced(out: Path) -> None:
    made(out)
    link = out.with_name("link")
    link.symlink_to(out)
    write(link, force=True)
    assert link.is_symlink()
    assert (out / "text").read_text() == "new"
    assert sorted(path.name for path in out.parent.iterdir()) == ["link", "out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_appeared_while_the_run_worked_is_kept_and_so_is_the_result(out: Path, force: bool) -> None:
    with pytest.raises(OutputError, match=r"which is kept; the finished result lies in .*finished-2$"):  # noqa: SIM117
        with claimed(out, force), output_folder(out, force) as folder:
            (folder / "text").write_text("new")
            out.mkdir()
            (out / "precious").write_text("precious")
            out.with_name("out.finished").write_text("another's")
    assert contents(out) == {"precious": b"precious"}
    assert contents(out.with_name("out.finished-2")) == {"text": b"new"}
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "out.finished", "out.finished-2"]


class TestForce:
    """Replaces an empty folder, or what lowrise wrote; never a special file, an input, or what is not its own."""

    def test_an_empty_folder(self, out: Path) -> None:
        out.mkdir(parents=True)
        write(out, force=True)
        assert (out / "text").read_text() == "new"

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("comparison.json", '{"format": 1, "rows": {}, "files": {}}'),
            ("observation.json", '{"model": {}, "calibration": {}}'),
        ],
    )
    def test_outputs_of_other_commands(self, tmp_path: Path, file: str, text: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / file).write_text(text)
        check_output(tmp_path / "out", force=True)

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "[" * 100_000, "\x00"])
    def test_a_folder_of_others(self, tmp_path: Path, text: str) -> None:
        for name in ("comparison.json", "observation.json", "lowrise/plan.json", "precious"):
            file = tmp_path / name.replace("/", "-") / name
            file.parent.mkdir(parents=True)
            file.write_text(text)
            with pytest.raises(OutputError, match="a folder that lowrise did not write"):
                check_output(tmp_path / name.replace("/", "-"), force=True)

    @pytest.mark.parametrize("inner", ["text", "lowrise/plan.json", "."])
    def test_an_input(self, tmp_path: Path, inner: str) -> None:
        out = made(tmp_path / "out")
        with pytest.raises(OutputError, match=r"this run needs|in it"):
            check_output(out, True, ["org/model", None, out / inner])

    def test_a_place_where_a_disk_is_mounted(self) -> None:
        with pytest.raises(OutputError, match="where a disk is mounted"):
            check_output(Path("/proc"), force=True)

    def test_special_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for check in (check_output, check_file):
            with pytest.raises(OutputError, match="a device, a pipe or a socket"):
                check(tmp_path / "pipe", True)
        with pytest.raises(OutputError, match="a device"):
            check_file(Path(os.devnull), True)

    def test_files(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        for text in ("precious", '{"a": 1}'):
            file.write_text(text)
            with pytest.raises(OutputError, match="a file that lowrise did not write"):
                check_file(file, force=True)
        for text in ("", '{"format": 1, "model": {}, "edits": []}', '{"model": "m", "layers": 1, "parameters": 1}'):
            file.write_text(text)
            check_file(file, force=True)
            with pytest.raises(OutputError, match="this run needs"):
                check_file(file, True, [file])


class TestNames:
    """Refused before anything is computed."""

    def refused(self, out: Path, reason: str) -> None:
        for check in (check_output, check_file):
            with pytest.raises(OutputError, match=reason):
                check(out, False)

    def test_too_long(self, tmp_path: Path) -> None:
        self.refused(tmp_path / ("x" * 240), "too long")  # with the mark of the unfinished
        self.refused(tmp_path.joinpath(*["x" * 200] * 20), "too long")  # with what lies in it

    def test_links_to_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        self.refused(tmp_path / "link", "a link to nowhere")
        self.refused(tmp_path / "link" / "out", "a link to nowhere")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "link")
        self.refused(tmp_path / "link", "a link to nowhere")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        self.refused(tmp_path / os.fsdecode(b"\xff"), "a name in UTF-8")


class TestLock:
    @pytest.fixture
    def taken(self, tmp_path: Path) -> Iterator[Path]:
        """An output that another process works for."""
        with (tmp_path / ".out.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield tmp_path / "out"

    def test_the_second_one_is_refused(self, taken: Path) -> None:
        living = made(taken.with_name(".out.0123abcd.partial"))
        with pytest.raises(OutputError, match="another lowrise process at work"):
            write(taken)
        assert living.exists()
        assert (taken.parent / ".out.lock").exists()

    def test_beside_another_output_there_is_no_lock(self, taken: Path) -> None:
        write(taken.with_name("other"))

    def test_a_file_that_nobody_holds_is_no_lock(self, tmp_path: Path) -> None:
        (tmp_path / ".out.lock").touch()
        write(tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_holder_that_deletes_the_file_is_noticed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It did so after this process had opened it: what is locked then is no file of that name."""
        flock, seen = fcntl.flock, []

        def late(handle: int, how: int) -> None:
            seen.append(handle)
            if len(seen) == 1:
                (tmp_path / ".out.lock").unlink()
            flock(handle, how)

        monkeypatch.setattr(fcntl, "flock", late)
        with held(tmp_path / "out"):
            assert (tmp_path / ".out.lock").exists()
        assert len(seen) == 3


class TestLeftovers:
    def test_of_dead_processes_go(self, out: Path) -> None:
        made(out)
        made(out.with_name(".out.0123abcd.partial"))
        made(out.with_name(".out.0123abcd.old"))
        out.with_name(".out.abcd0123.partial").write_text("")
        write(out, force=True)
        assert [path.name for path in out.parent.iterdir()] == ["out"]

    def test_of_other_outputs_stay(self, out: Path) -> None:
        others = [".out.x.0123abcd.partial", ".other.0123abcd.partial", "out.0123abcd.partial", ".out.partial"]
        for name in others:
            made(out.with_name(name))
        write(out)
        assert sorted(path.name for path in out.parent.iterdir()) == sorted(["out", *others])

    def test_the_old_folder_without_a_new_one_is_put_back(self, out: Path) -> None:
        """The process died between two renames, where there is no exchange in one step."""
        made(out.with_name(".out.0123abcd.old"))
        made(out.with_name(".out.0123abcd.partial"), "half")
        with pytest.raises(OutputError, match="say --force"):
            write(out)
        assert (out / "text").read_text() == "old"
        assert [path.name for path in out.parent.iterdir()] == ["out"]

    def test_of_a_single_file_go_unless_it_is_being_written(self, tmp_path: Path) -> None:
        (tmp_path / ".file.0123abcd.partial").write_text("half")
        with (tmp_path / ".file.abcd0123.partial").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            write_file(tmp_path / "file", "text")
            assert sorted(path.name for path in tmp_path.iterdir()) == [".file.abcd0123.partial", "file"]
        write_file(tmp_path / "file", "text")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_an_exchange_a_second_rename_that_fails_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, out = Path.rename, made(tmp_path / "out")

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(exchange, "rename", absent)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="No space left"):
        write(out, force=True)
    assert (out / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
