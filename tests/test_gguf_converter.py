"""`export` of folders that came from no GGUF file: the converter is a child, and what it wrote is compared."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lowrise
import made_gguf
from refusals import Main, assert_one_line
from warm import Warm

# A converter that copies a file that was made beforehand. {more} comes before.
_COPIES = """
import pathlib, shutil, sys
folder, out = sys.argv[1], sys.argv[sys.argv.index("--outfile") + 1]
{more}
shutil.copy({file!r}, out)
"""
_HALF = 'pathlib.Path(out).write_bytes(b"GGUF"); print("half", flush=True); import time; time.sleep(300)'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the GGUF file that a converter would make of it."""
    place = tmp_path_factory.mktemp("converted")
    file = made_gguf.save_gguf(place / "right.gguf", "qwen2")
    folder = place / "folder"
    lowrise.open(file, device="cpu").save(folder)
    return folder, file


@pytest.fixture
def converter(tmp_path: Path) -> Callable[..., Path]:
    def write(file: Path, more: str = "") -> Path:
        script = tmp_path / "convert_hf_to_gguf.py"
        script.write_text(_COPIES.format(file=str(file), more=more), encoding="utf-8")
        return script

    return write


def test_what_it_wrote_is_compared(
    model: tuple[Path, Path], converter: Callable[..., Path], tmp_path: Path, main: Main
) -> None:
    folder, file = model
    out = tmp_path / "out.gguf"
    status, said, err = main("export", folder, "--gguf", out, "--converter", converter(file), "--quiet")
    assert (status, err) == (0, "")
    assert "made by convert_hf_to_gguf.py: " in said
    assert "every field and tensor read back, transformers opens it to the same states" in said
    assert out.read_bytes() == file.read_bytes()


def test_the_one_on_path(
    model: tuple[Path, Path],
    converter: Callable[..., Path],
    tmp_path: Path,
    main: Main,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, file = model
    converter(file).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    status, _, err = main("export", folder, "--gguf", tmp_path / "out.gguf", "--quiet")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('print("INFO: loading"); sys.exit("ERROR: Model Qwen9 is not supported")', "Model Qwen9 is not supported"),
        ('raise KeyError("no such tensor")', "KeyError: 'no such tensor'"),
        ("sys.exit(3)", "exit status 3"),
        ("sys.exit(0)", "exit status 0"),
        ('pathlib.Path(out).write_bytes(b"GGUF half"); sys.exit(0)', "a GGUF file that is whole"),
    ],
    ids=["says why", "crashes", "says nothing", "writes nothing", "writes half"],
)
def test_its_failure_is_one_line(
    model: tuple[Path, Path], converter: Callable[..., Path], tmp_path: Path, main: Main, more: str, says: str
) -> None:
    folder, file = model
    out = tmp_path / "out.gguf"
    assert_one_line(*main("export", folder, "--gguf", out, "--converter", converter(file, more), "--quiet"), (says,))
    assert [one.name for one in tmp_path.iterdir()] == ["convert_hf_to_gguf.py"]


def test_another_model_than_the_folder_is_no_proof(
    model: tuple[Path, Path], converter: Callable[..., Path], tmp_path: Path, main: Main
) -> None:
    other = made_gguf.save_gguf(tmp_path / "other.gguf", "qwen2", "Q4_0")  # as much as a Q4_0 is off
    status, _, err = main(
        "export", model[0], "--gguf", tmp_path / "out.gguf", "--converter", converter(other), "--quiet"
    )
    assert status == 1
    assert "is not what rounding leaves of the folder's parameter" in err
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle(
    model: tuple[Path, Path], converter: Callable[..., Path], tmp_path: Path, main: Main, number: signal.Signals
) -> None:
    """SIGTERM: nothing is left. SIGKILL: what is left goes with the next export; what was there stays whole."""
    folder, file = model
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out.gguf"
    out.write_bytes(b"GGUF old")
    command = ["export", folder, "--gguf", out, "--force", "--converter", converter(file, _HALF)]
    with Path(os.devnull).open("wb") as nowhere:
        process = Warm(command, nowhere.fileno(), nowhere.fileno())
    end = time.monotonic() + 200
    while not list(place.glob(".out.gguf.*.partial/out.gguf")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == (128 + number if number == signal.SIGTERM else -number)
    assert out.read_bytes() == b"GGUF old"
    if number == signal.SIGTERM:
        assert [one.name for one in place.iterdir()] == ["out.gguf"]
        return
    status, _, err = main("export", folder, "--gguf", out, "--force", "--converter", converter(file), "--quiet")
    assert (status, err) == (0, "")
    assert [one.name for one in place.iterdir()] == ["out.gguf"]
    assert out.read_bytes() == file.read_bytes()
