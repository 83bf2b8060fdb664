"""A run that was killed goes on where it was, with the same command, and makes the bytes of one that was not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise import pipeline
from lowrise.compare.child import StepResult
from lowrise.compare.folder import Row
from lowrise.errors import OutputError
from lowrise.plan import read_plan
from lowrise.planned import recipe_of_plan
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.work import Work

SMALL = {"remove": "2", "samples": 6, "length": 24, "device": "cpu", "training": {"epochs": 2, "batch_tokens": 48}}

# preset class -> settings: every search, every repair that goes layer by layer, training, and what the model writes
CASES: dict[str, dict[str, Any]] = {
    "refit": {"preset": "refit"},
    "refit-span": {"preset": "refit-span"},
    "written": {"preset": "replaceme", "text": []},
    "greedy": {"preset": "greedy-perplexity", "repair": "refit"},
    "laco": {"preset": "laco", "repair": "fold"},
    "laco-threshold": {"preset": "laco", "remove": None, "merge_search": {"threshold": -0.9}},
    "layers": {"preset": "given", "layers": "1,2", "remove": None, "repair": "refit"},
    "streamline": {"preset": "streamline"},
    "streamline-ffn": {"preset": "streamline-ffn", "repair": "refit"},
}


class KilledError(BaseException):
    """The process ends here."""


def end() -> None:
    raise KilledError


class Killing:
    """Counts what is kept, by name, and ends the run after so many records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: Counter[str] = Counter()
        self.left: float = float("inf")
        self.kill: Callable[[], None] = end
        keep = Work.keep

        def counted(work: Work, name: str, *given: Any, **how: Any) -> None:
            keep(work, name, *given, **how)
            if work.keeps:
                self.names[f"{work._name}{name}"] += 1
                self.left -= 1
                if self.left == 0:
                    self.kill()

        monkeypatch.setattr(Work, "keep", counted)

    def after(self, records: int, command: Callable[[], object]) -> bool:
        """Whether the command came to its end."""
        self.left = records
        try:
            command()
        except KilledError:
            return False
        finally:
            self.left = float("inf")
        return True


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Killing:
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 1)
    monkeypatch.setattr("lowrise.measure.greedy_text.NEW_TOKENS", 1)
    monkeypatch.setattr("lowrise.heal.state.SHARE", float("inf"))  # every step of a training is kept
    monkeypatch.setattr(pipeline, "draw_observation", lambda *_: None)
    monkeypatch.setattr("lowrise.pipeline.building.build_report", lambda _folder: {})
    return Killing(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny", template="<s> $A")


@pytest.fixture
def command(model: Path, text_file: Path) -> Callable[..., Callable[[Path], Any]]:
    def make(case: str, name: str = "run", **more: Any) -> Callable[[Path], Any]:
        given = {"model": str(model), "text": [str(text_file)], **SMALL, **CASES[case], **more}
        if given["text"]:
            given["eval_text"] = given["text"]
            given["windows"] = 1
        recipe = build_recipe(given)

        def start(out: Path, fresh: bool = False, progress: Reporter | None = None) -> Any:
            progress = progress or Reporter(quiet=True)
            if name == "run":
                return pipeline.run(recipe, out, False, progress, fresh)
            if name == "plan":
                return pipeline.make_plan(recipe, progress, out, False, fresh)
            if name == "observe":
                return pipeline.observe_model(recipe, out, False, progress, fresh)
            plan = read_plan(out.with_name("plan.json"))
            planned = recipe_of_plan(plan, {"model": str(model), "device": "cpu"}, "plan.json")
            return pipeline.apply(plan, planned, out, False, progress, fresh)

        return start

    return make


def made(out: Path) -> dict[str, bytes]:
    """What must be the same, to the byte."""
    if out.is_file():
        return {"plan": out.read_bytes()}
    if (out / "observation.json").exists():
        found = json.loads((out / "observation.json").read_text())
        del found["seconds"]
        return {"observation": json.dumps(found).encode()}
    files = [*sorted(out.glob("*.safetensors")), out / "lowrise/plan.json", out / "lowrise/recipe.yaml"]
    files += [*out.glob("lowrise/observation.json"), *out.glob("lowrise/training*.json")]
    return {file.name: file.read_bytes() for file in files}


def check(killing: Killing, start: Callable[[Path], Any], folder: Path, kills: int | None) -> None:
    """Killed so often, each time some records further on (None: after every one), and then left to come to its end."""
    out, other = folder / "killed" / "out", folder / "whole" / "out"
    for place in (out, other):
        place.parent.mkdir()
        if (folder / "plan.json").exists():
            shutil.copy(folder / "plan.json", place.parent / "plan.json")
    start(other)
    once = killing.names
    killing.names = Counter()
    every = 1 if kills is None else sum(once.values()) // (kills + 1) + 1
    killed = itertools.takewhile(lambda done: not done, (killing.after(every, lambda: start(out)) for _ in range(200)))
    assert len([*killed]) == sum(once.values()) // every
    assert killing.names == once  # nothing was done twice
    assert made(out) == made(other)
    assert {path.name for path in out.parent.iterdir()} <= {"out", "plan.json"}


@pytest.mark.parametrize("kills", [3, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_killed_and_started_again_run_makes_the_same(
    killing: Killing, command: Any, tmp_path: Path, case: str, kills: int | None
) -> None:
    check(killing, command(case), tmp_path, kills)


def test_so_does_one_that_sigkill_ended(killing: Killing, command: Any, tmp_path: Path) -> None:
    """In a fork, which has no time to clean up."""
    start, out = command("layers"), tmp_path / "out"
    killing.kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        killing.after(4, lambda: start(out))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    start(out)
    start(tmp_path / "other")
    assert made(out) == made(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.parametrize("case", ["refit", pytest.param("streamline", marks=pytest.mark.slow)])
def test_so_does_apply(killing: Killing, command: Any, tmp_path: Path, case: str) -> None:
    command(case, "plan")(tmp_path / "plan.json")
    killing.names = Counter()
    check(killing, command(case, "apply"), tmp_path, 2)


@pytest.mark.parametrize("name", ["plan", "observe"])
def test_so_do_plan_and_observe(killing: Killing, command: Any, tmp_path: Path, name: str) -> None:
    case = {"plan": "refit-span", "observe": "written"}[name]
    check(killing, command(case, name), tmp_path, 3)


@pytest.fixture
def killed(killing: Killing, command: Any, tmp_path: Path) -> Iterator[Path]:
    """An output whose run was killed while it repaired layers."""
    out = tmp_path / "out"
    start = command("layers")
    assert not killing.after(4, lambda: start(out))
    (work,) = tmp_path.iterdir()
    assert work.name.startswith(".out.")
    assert "repair-layer" in " ".join(path.name for path in work.iterdir())
    yield out


def work_of(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f".{out.name}.*.work"))


def test_another_recipe_leaves_it_alone_and_says_so(
    killed: Path, command: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (work,) = work_of(killed)
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    command("layers", seed=1)(killed, progress=Reporter())
    assert work_of(killed) == [work]
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before
    assert str(work) in capfd.readouterr().err


def test_fresh_begins_anew(killing: Killing, killed: Path, command: Any) -> None:
    killing.names = Counter()
    command("layers")(killed, fresh=True)
    assert killing.names["windows"] == 1
    assert not work_of(killed)


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_damaged_is_named_and_made_anew(
    killed: Path, command: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], thorough: bool
) -> None:
    start = command("layers")
    start(tmp_path / "other")
    expected = made(tmp_path / "other")
    (work,) = work_of(killed)
    kept = tmp_path / "kept"
    shutil.copytree(work, kept)
    damages = (cut, turned, emptied)
    for number, name in enumerate(sorted(path.name for path in kept.iterdir())):
        for damage in damages if thorough else [damages[number % 3]]:
            shutil.rmtree(killed, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(kept, work)
            differs = damage(work / name)
            start(killed, progress=Reporter(quiet=True))
            said = capfd.readouterr().err
            assert ("is damaged: made anew" in said) == (differs and not unused(name, kept)), (name, said)
            assert made(killed) == expected
            assert not work_of(killed)


def test_a_plan_whose_observation_is_lost_is_made_anew(killing: Killing, command: Any, tmp_path: Path) -> None:
    """The one is of no use without the other: both go into the output."""
    start, out = command("written"), tmp_path / "out"
    assert not killing.after(3, lambda: start(out))
    (work,) = work_of(out)
    (work / "observation.json").write_text("{}")
    start(out)
    start(tmp_path / "other")
    assert made(out) == made(tmp_path / "other")
    counts = {name: count for name, count in killing.names.items() if not name.startswith("repair")}
    assert counts == {"windows": 2, "observation": 3, "plan": 3}


def test_seconds_are_those_of_all_attempts(killing: Killing, command: Any, tmp_path: Path) -> None:
    start, out = command("layers"), tmp_path / "out"
    assert not killing.after(3, lambda: start(out))
    (work,) = work_of(out)
    before = max(
        (json.loads(file.read_text())["seconds"] for file in work.glob("*.json")), key=lambda one: one["total"]
    )
    assert before["repair"] > 0
    after = start(out).seconds
    assert all(after[name] >= seconds for name, seconds in before.items())
    assert after["calibration"] == before["calibration"]


@pytest.mark.parametrize(("status", "stays"), [(2, False), (-9, True)])
def test_a_row_of_a_comparison_goes_on_until_it_ends_of_itself(tmp_path: Path, status: int, stays: bool) -> None:
    row = Row(tmp_path, build_recipe({"preset": "tail"}), 2)
    work = row.place / ".model.0123abcd.work"
    work.mkdir(parents=True)
    (row.place / ".model.0123abcd.partial").mkdir()
    row.begin()
    assert {path.name for path in row.place.iterdir()} == {work.name, "row.yaml"}
    row.log.write_text("lowrise: it was refused")
    row.end(StepResult(status, row.log, 1.0), keep=False)
    assert work.exists() == stays


def test_an_interrupted_run_says_where_it_stands(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keep = Work.keep

    def stopping(work: Work, name: str, *given: Any, **how: Any) -> None:
        keep(work, name, *given, **how)
        if name == "plan":
            raise SystemExit(130)

    monkeypatch.setattr(Work, "keep", stopping)
    with pytest.raises(SystemExit):
        command("layers")(tmp_path / "out", progress=Reporter())
    (work,) = work_of(tmp_path / "out")
    expected = f"what is done is kept in {work} (the plan last); the same command goes on from there"
    assert capfd.readouterr().err.splitlines()[-1] == expected


def unused(name: str, kept: Path) -> bool:
    """Whether it is the file of states that the last layer's record does not name: what follows lies over it."""
    if not name.startswith("repair-states"):
        return False
    last = max(kept.glob("repair-layer-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    states = json.loads(last.read_text())["value"]["states"]
    return int(name[-1]) not in {about["file"] for *_, about in states}


def cut(file: Path) -> bool:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return len(content) > 0


def turned(file: Path) -> bool:
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    return len(content) > 0


def emptied(file: Path) -> bool:
    file.unlink()
    file.mkdir()
    return True


def test_a_second_process_is_refused(killed: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start = command("layers")
    find, tried = Work.find, []

    def second(work: Work, name: str) -> Any:
        if not tried:
            tried.append(name)
            with pytest.raises(OutputError, match="another lowrise process at work"):
                start(killed)
        return find(work, name)

    monkeypatch.setattr(Work, "find", second)
    start(killed)
    assert tried


def test_tensors_that_share_memory_are_kept_as_they_are(tmp_path: Path) -> None:
    """A view of another, two names of one tensor, and one without elements."""
    whole = torch.arange(6.0).reshape(2, 3)
    given = {"whole": whole, "same": whole, "part": whole[:, 1:], "none": torch.empty(0), "nothing": torch.empty(0)}
    work = Work(tmp_path / "out", "01234567")
    work.keep("record", 1, given, what="tensors")
    found = work.find("record")
    assert found is not None
    assert found.tensors.keys() == given.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in given.items())
