"""What an estimate is counted from: as many layers as each search and repair really runs, and rates by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import tiny
from lowrise.cost.asked import Asked
from lowrise.cost.criteria import stages_of, trials
from lowrise.cost.describe import shape_of
from lowrise.cost.job import Job, Text
from lowrise.cost.repairs import refit_work
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import COMMANDS, decoded
from lowrise.cost.timing import Timed
from lowrise.cost.work import Rates, Work
from lowrise.edit.context import RepairTask
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.methods import methods
from lowrise.model.decoder import Decoder
from lowrise.model.layer import Layer
from lowrise.model.matrices import ReachedError
from lowrise.pipeline.estimating import Known, estimate_of
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, presets
from lowrise.select.choice import spans_of
from lowrise.select.greedy import choose_greedily
from lowrise.select.refit_search import choose_by_refit, choose_span_by_refit
from lowrise.work import Work as Kept


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(tiny.model())


class Passes:
    """Tokens that passed a layer: whole, and left before its MLP's end."""

    def __init__(self) -> None:
        self.whole = self.left = self.backward = 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    passes, call = Passes(), Layer.call

    def noted(self: Layer, h: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        tokens = h.shape[0] * h.shape[1]
        try:
            out = call(self, h, *given, **named)
        except ReachedError:
            passes.left += tokens
            raise
        if torch.is_grad_enabled():
            passes.backward += tokens
        else:
            passes.whole += tokens
        return out

    with monkeypatch.context() as patched:
        patched.setattr(Layer, "call", noted)
        yield passes


def job_of(decoder: Decoder, preset: str, removed: int, windows: int, **settings: Any) -> Job:
    recipe = Recipe(preset=preset, length=32, samples=windows, text=["a.txt"], **settings)
    return Job(shape_of(decoder, "model", 4), recipe, removed, windows, 32, 0)


def test_the_searches_run_as_many_layers_as_is_counted(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    """14 windows are fitted, 2 decide. Of this model both finalists are the same layers, so that none is repaired; of
    the count, parts are averages over where cuts are. A pass that is left before its end is about half of one.
    """
    windows, held = tiny.windows(14), tiny.windows(2, seed=1)

    def run(search: Callable[..., object], *given: Any) -> float:
        with counted(monkeypatch) as passes:
            search(decoder, *given, Reporter(quiet=True))
        assert passes.backward == 0
        return passes.whole + 0.55 * passes.left

    by_refit = run(choose_by_refit, windows, held, 2, 1)
    assert by_refit == pytest.approx(trials(job_of(decoder, "refit", 2, 16)).forward, rel=0.2)
    (span,) = stages_of(job_of(decoder, "refit-span", 2, 16))
    assert run(choose_span_by_refit, windows, held, 2, 1) == pytest.approx(span.work.forward, rel=0.05)
    (greedy,) = stages_of(job_of(decoder, "greedy-perplexity", 2, 14))
    assert run(choose_greedily, windows, 2) == pytest.approx(greedy.work.forward, rel=0.05)


def test_refit_runs_as_many_layers_as_is_counted(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    job = job_of(decoder, "refit", 2, 16).with_spans([(2, 3), (4, 5)])
    student = Student(decoder, [0, 1, 3, 5])
    with counted(monkeypatch) as passes:
        repair("refit", RepairTask(student, tiny.windows(16), 2, Reporter(quiet=True), Kept()))
    work = refit_work(job, 14 * 32, 2 * 32, 32, job.gaps)
    assert work.backward / 3 <= passes.backward <= work.backward  # two to six epochs, as held-out tokens gain
    # of what is run once attention is at hand the MLP is counted alone; passes that end before it make up for that
    assert passes.whole == pytest.approx(work.forward, rel=0.2)


def test_every_preset_is_counted_and_more_tokens_are_more_work() -> None:
    shape = ModelShape.dense("m", layers=24, hidden=64, inner=128, heads=4, key_heads=2, vocabulary=1000)
    for name in presets():
        small, large = (_work_of(Recipe(preset=name, samples=n, length=64), shape) for n in (32, 64))
        assert large.forward >= small.forward > 0, name
        assert large.head > small.head, name


def _work_of(recipe: Recipe, shape: ModelShape) -> Work:
    job = Asked(recipe, shape).job(texts=[Text(4, 64)])
    return sum((stage.work for stage in COMMANDS["run"](job)), Work())


def test_all_rows_of_lowrise_say_what_they_cost_or_only_look() -> None:
    """A criterion without a count is one that looks at states, or at nothing."""
    looks = {name: row.looks_at for name, row in methods("criterion").items() if row.cost is None}
    assert {*looks.values()} <= {"states", "nothing"}
    assert all(row.cost is not None for kind in ("repair", "network") for row in methods(kind).values())  # type: ignore[arg-type]


def test_time_is_linear_in_layers_and_tokens() -> None:
    """But for what hangs on neither, observing and repairing by one pass grow as layers × tokens."""
    rates = Rates(forward=1.0)

    def seconds(layers: int, samples: int) -> float:
        shape = ModelShape.dense("m", layers=layers, hidden=64, inner=128, heads=4, key_heads=2, vocabulary=1000)
        job = Asked(Recipe(preset="block-influence", samples=samples, length=64), shape).job(texts=[])
        (stage,) = [stage for stage in COMMANDS["plan"](job) if stage.name == "observe"]
        return rates.seconds(stage.work)

    assert seconds(24, 32) == pytest.approx(2 * seconds(12, 32)) == pytest.approx(2 * seconds(24, 16))


def test_decoding_reads_the_head_once_a_token() -> None:
    shape = ModelShape.dense("m", layers=3, hidden=8, inner=16, heads=2, key_heads=1, vocabulary=10)
    work = decoded(shape, rows=2, new=5, prompt=0)
    assert (work.decoded, work.decode_calls, work.head, work.touched) == (2 * 5 * 3, 5 * 3, 10, 5 * 10 * 8 * 4)


@pytest.mark.parametrize(
    ("settings", "removed"),
    [({"remove": "25%"}, 6), ({"layers": "3,5-7"}, 4), ({"keep_parameters": "0.5M"}, None), ({"preset": "laco"}, 6)],
)
def test_how_many_layers_go_is_known_from_the_recipe(settings: dict[str, Any], removed: int | None) -> None:
    shape = ModelShape.dense("m", layers=24, hidden=64, inner=128, heads=4, key_heads=2, vocabulary=1000)
    asked = Asked(Recipe(**settings), shape)
    job = asked.job(texts=[])
    if removed is None:
        assert job.after.parameters <= 0.5e6 < job.after.parameters + shape.layer_parameters
    else:
        assert job.removed == removed
    assert bool(asked.assumed) == (settings.get("preset") == "laco")


def test_layers_side_by_side_are_one_gap() -> None:
    assert tuple(spans_of([3, 5, 6, 7, 9])) == ((3, 4), (5, 8), (9, 10))


def test_an_estimate_hangs_on_the_rates_of_the_machine(decoder: Decoder) -> None:
    shape = shape_of(decoder, "m", 4)
    slow, fast = (
        estimate_of(
            "run",
            Recipe(preset="tail", remove="2", samples=4, length=16),
            Known(shape, Timed(Rates(forward=rate, decode_calls=rate), 1.0, "test"), None, 1024, 0.0),
        ).seconds
        for rate in (2e-3, 1e-3)
    )
    assert slow == pytest.approx(2 * fast, rel=0.01)
