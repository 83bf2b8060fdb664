"""Every pass finds what it found where a device has less memory than it seemed, and a batch is run by halves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import mixtures
import tiny
from faults import SAID, short_of_memory
from lowrise.calibration import Windows
from lowrise.calibration.written import write_windows
from lowrise.edit.replace import make_trainee
from lowrise.edit.student import Student
from lowrise.heal import defaults
from lowrise.heal.mse import train
from lowrise.heal.objective import Goal, StudentLoss
from lowrise.heal.pairs import collect_pairs
from lowrise.heal.teacher import Resident
from lowrise.heal.tokens import TrainingTokens
from lowrise.heal.training import TrainingPlan
from lowrise.heal.training import train as heal
from lowrise.measure.greedy_text import Prompts, continuations, same_choices
from lowrise.measure.perplexity import perplexity
from lowrise.model.batching import telling
from lowrise.model.decoder import Decoder
from lowrise.model.matrices import captured, input_of
from lowrise.observe.loss import next_token_loss
from lowrise.observe.stream import observe
from lowrise.plan import Replace
from lowrise.progress import Reporter
from lowrise.select.greedy import choose_greedily
from lowrise.select.refit_search import choose_by_refit
from lowrise.select.taylor import choose_by_taylor
from lowrise.settings import Training
from lowrise.work import Work
from refusals import Main
from repairs import repair

QUIET = Reporter(quiet=True)
ROWS = 3  # that fit; batches here are of 8 to 32


def windows(rows: int = 16, tokens: int = 32, seed: int = 0) -> Windows:
    return Windows(tiny.ids(rows, tokens, seed), "test", 0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_layers_give_what_they_gave(family: str) -> None:
    """All states of a batch, what modules were given, and what a module is given where the run is left."""
    decoder, ids = Decoder(tiny.model(family)), tiny.ids(8)
    layer = decoder.layer(len(decoder) - 1)

    def found() -> list[Tensor]:
        with captured(layer.mlp_inputs[0].module) as given:
            states = [h for _, h in decoder.states(ids)]
        h, calls = decoder.embed(ids)
        left = input_of(layer.attention_output.module, lambda: decoder.step(layer.index, h, calls))
        return [*states, given[0], left]

    expected = found()
    with short_of_memory(decoder.layers, ROWS) as faults:
        ours = found()
    assert faults.count
    assert len(faults.said) == 2  # 8 rows, then 4
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def passes() -> dict[str, Callable[[Decoder], Any]]:
    prompts = Prompts([tiny.ids(8, 6)], [])
    tokenizer = tiny.tokenizer()

    return {
        "observe": lambda decoder: observe(decoder, windows(), QUIET).similarity.pairs().flatten().tolist(),
        "greedy": lambda decoder: choose_greedily(decoder, windows(), 2, QUIET).scores["rounds"][0]["losses"][1:],
        "search": lambda decoder: choose_by_refit(decoder, windows(32), windows(8, seed=1), 2, 1, QUIET)
            .scores["rounds"][0]["divergences"][1:],
        "refit": lambda decoder: [
            fit.after for fit in repair(Student(decoder, [0, 1, 4, 5]), windows(64), 16, "refit", QUIET)
        ],
        "fold": lambda decoder: [
            fit.after for fit in repair(Student(decoder, [0, 1, 4, 5]), windows(64), 16, "fold", QUIET)
        ],
        "linear-patch": lambda decoder: [
            fit.after for fit in repair(Student(decoder, [0, 1, 4, 5]), windows(64), 16, "ghosted", QUIET)
        ],
        "perplexity": lambda decoder: [perplexity(decoder, windows(), QUIET)["loss"]],
        "choices": lambda decoder: [
            float(one)
            for row in same_choices(decoder, prompts, continuations(decoder, tokenizer, prompts))
            for one in row
        ],
        "writing": lambda decoder: write_windows(
            decoder, tokenizer, samples=8, length=12, seed=0, progress=QUIET
        ).flatten().tolist(),
    }  # fmt: skip


@pytest.mark.parametrize("name", [*passes()])
def test_every_pass_finds_what_it_found(name: str) -> None:
    run = passes()[name]
    expected = run(Decoder(tiny.model()))
    decoder = Decoder(tiny.model())
    with short_of_memory(decoder.layers[:2], ROWS) as faults:  # some passes end below the last layer
        found = run(decoder)
    assert faults.count
    assert faults.said
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_gradients_of_taylor_are_added_up() -> None:
    model = tiny.model(num_hidden_layers=9)

    def importance() -> Any:
        return choose_by_taylor(Decoder(model), windows(), 1, QUIET).scores["importance"]

    expected = importance()
    with short_of_memory(model.model.layers, ROWS, gradients=True) as faults:
        found = importance()
    assert faults.count
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_network_is_trained_as_without(gradients: bool) -> None:
    """In a backward pass, and where held-out windows are looked at."""
    edit = Replace(start=2, stop=4, network="layer", training=Training(epochs=1, batch_tokens=256))

    def trained(rows: int) -> tuple[list[float], int]:
        decoder = Decoder(tiny.model())
        pairs = collect_pairs(decoder, windows(40), 2, 4, 2**30, QUIET)
        trainee = make_trainee(decoder, edit, 0)
        with short_of_memory(decoder.layers[:3], rows, gradients=gradients) as faults:
            curve = train(decoder, trainee, pairs, edit.training, 0, QUIET)
        return [loss for _, loss in (*curve.train, *curve.validation)], faults.count

    (expected, none), (found, some) = trained(100), trained(ROWS)
    assert (none, some > 0) == (0, True)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", mixtures.FAMILIES)
@torch.no_grad()
def test_mixtures_are_repaired_as_without(family: str) -> None:
    """What experts are given is noted by the part, of tokens that are counted on."""

    def repaired() -> list[float | None]:
        decoder = mixtures.decoder(family)
        with short_of_memory(decoder.layers, rows) as faults:
            fits = repair(Student(decoder, [0, *range(2, len(decoder))]), windows(32), 8, "refit", QUIET)
        counts.append(faults.count)
        return [fit.after for fit in fits]

    counts = list[int]()
    rows = 100
    expected = repaired()
    rows = ROWS
    found = repaired()
    assert (counts[0], counts[1] > 0) == (0, True)
    assert found == pytest.approx(expected, rel=2e-2)


def test_a_run_that_finds_no_room_ends_in_one_line(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError(SAID)

    monkeypatch.setattr("lowrise.observe.massive.MassiveActivations.add_states", full)
    settings = ["--preset", "streamline-none", "--remove", "2", "--samples", "8", "--length", "32", "--quiet"]
    status, out, errors = main("run", tiny_folder, "--text", text_file, "--out", tmp_path / "out", *settings)
    assert (status, out) == (1, "")
    assert errors.splitlines() == [
        f"lowrise: observe ran out of memory ({SAID}); free memory of the device, name another by --device, or say "
        "--dtype bfloat16"
    ]


@pytest.mark.parametrize(
    ("place", "stage", "arguments"),
    [
        ("lowrise.measure.draft._Rounds.count_pass", "draft", ["measure", "MODEL", "--draft-for", "MODEL"]),
        ("lowrise.pipeline.estimating.timed", "the estimate", ["run", "MODEL", "--dry-run", "--out", "OUT"]),
        ("lowrise.cost.describe._of_one_layer", "the estimate", ["run", "MODEL", "--dry-run", "--out", "OUT"]),
    ],
)
def test_memory_that_ends_is_laid_to_nothing_else(
    main: Main,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    stage: str,
    arguments: list[str],
) -> None:
    """Not to models that do not go together, nor to a config that no layer can be made of."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(SAID)

    monkeypatch.setattr(place, full)
    named = {"MODEL": tiny_folder, "OUT": tmp_path / "out"}
    status, out, errors = main(*(named.get(one, one) for one in arguments), "--device", "cpu", "--quiet")
    assert (status, out) == (1, "")
    assert errors.startswith(f"lowrise: {stage} ran out of memory ({SAID}); free memory of the device")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("kl", [0.0, 1.0])
def test_healing_takes_the_same_steps(kl: float) -> None:
    """Half as many windows at a time, of a step that is begun anew; the teacher is asked in parts."""

    def healed(rows: int) -> tuple[list[float], int]:
        student, dense = Decoder(tiny.model()), Decoder(tiny.model(seed=1))
        ids = tiny.ids(16, 24).int()
        guard = ("guard", Windows(tiny.ids(2, 24, seed=9), "guard", 0))
        made = TrainingTokens(ids, None, 0, torch.zeros(16, dtype=torch.int32), ("own",), {"guard": guard[1]}, guard)
        plan = TrainingPlan(*defaults.schedule_of(16, 4, 1e-3), micro=96, points=frozenset([4]), evaluated=48)
        loss, teacher = StudentLoss(student, Goal(kl)), Resident(dense, 1.0) if kl else None
        with (
            short_of_memory(student.layers, rows, gradients=True, after=1) as faults,
            short_of_memory(dense.layers, rows),
        ):
            done = heal(loss, teacher, made, plan, Accelerator(cpu=True), QUIET, Work())
        return [value for _, value in done.losses], faults.count

    (expected, none), (found, some) = healed(100), healed(1)
    assert (none, some > 0) == (0, True)
    assert found == pytest.approx(expected, rel=1e-4)


def test_tasks_are_asked_anew_in_smaller_batches() -> None:
    from lowrise.measure import harness

    lm = harness.Harness(Decoder(tiny.model()), tiny.tokenizer())
    sizes = list[int]()

    def ask() -> str:
        sizes.append(lm.batch_size_per_gpu)
        if lm.batch_size_per_gpu > 8:
            raise torch.OutOfMemoryError(SAID)
        return "answered"

    with telling(lambda _: None):
        assert lm._in_batches(32, ask) == "answered"
    assert sizes == [32, 16, 8]


def test_logits_are_made_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, ids, asked = Decoder(tiny.model()), tiny.ids(2), list[int]()
    with torch.no_grad():
        *_, (_, last) = decoder.states(ids)
    expected = next_token_loss(decoder, last, ids)
    logits = decoder.logits

    def limited_logits(h: Tensor, some: Tensor) -> Tensor:
        asked.append(h.shape[1])
        if h.shape[1] > 6:
            raise torch.OutOfMemoryError(SAID)
        return logits(h, some)

    monkeypatch.setattr(decoder, "logits", limited_logits)
    decoder.batching.piece_of_logits = 2 * 23 * tiny.VOCABULARY
    with telling(lambda _: None):
        assert next_token_loss(decoder, last, ids) == pytest.approx(expected, rel=1e-6)
    assert asked == [23, 12, 6, 6, 6, 5]
