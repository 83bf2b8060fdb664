"""Shared fixtures: no network, one thread's worth of noise, a checkpoint and a text to run the command on."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models, and as many test processes as cores
os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # what is healed is the same on processors with AMX and without

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own: never the user's, and nothing kept from another test."""
    folder = tmp_path_factory.mktemp("cache") / "lowrise"
    monkeypatch.setenv("LOWRISE_CACHE", str(folder))
    return folder


@pytest.fixture
def no_tasks_of_lm_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading lm-eval's own 14,000 task files takes 15 seconds."""
    from lm_eval.tasks import manager

    monkeypatch.setattr(manager, "__file__", str(tmp_path / "lm-eval" / "manager.py"))


@pytest.fixture(scope="session", autouse=True)
def settled() -> None:
    """What libraries keep is never garbage: every run collects it, and would walk through all of theirs, 0.4 s."""
    import lowrise.pipeline  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture
def regressions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refit without block reconstruction, whose last digits hang on rounding and on how tokens are batched."""
    monkeypatch.setattr("lowrise.edit.refit.reconstruct_block", lambda _site: (0.0, 0.0))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint; tests must not change it."""
    import tiny

    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    file = tmp_path_factory.mktemp("texts") / "words.txt"
    file.write_text(tiny.text(), encoding="utf-8")
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what examples name: a model `org/name`, `a.txt`, `b.txt`."""
    import tiny

    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "org" / "name", max_position_embeddings=32)
    for seed, name in enumerate(("a.txt", "b.txt")):
        Path(name).write_text(tiny.text(1500, seed), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def topics_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text that every Python carries, for real models."""
    file = tmp_path_factory.mktemp("texts") / "topics.txt"
    file.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def lowrise() -> Run:
    """The installed command, in a process of its own; returns what it printed and its exit status."""
    command = Path(sys.executable).with_name("lowrise")

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [str(command), *map(str, arguments)], capture_output=True, text=True, timeout=250, **options
        )

    return run


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The same entry point inside this process, where torch is already loaded: (exit status, stdout, stderr).

    What its models write is short: 120 tokens of samples are a quarter of a run.
    """
    from lowrise import cli

    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 8)
    monkeypatch.setattr("lowrise.measure.greedy_text.NEW_TOKENS", 8)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lowrise", *map(str, arguments)])
        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
        monkeypatch.setattr(cli, "keep_streams", lambda: None)  # they are pytest's
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back when the test ends
        capfd.readouterr()  # what the test's own preparations printed
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, where the machine has one. Its own calls home are off: a page is charged with all requests."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
                "--disable-component-update", "--no-first-run"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=switches)
        yield opened
        opened.close()
