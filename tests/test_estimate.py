"""What a command says before it begins: the three lines, `--dry-run`, the typed result, and what it is counted from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import tiny
from lowrise.compare import ask, estimating, preparing
from lowrise.cost.asked import Asked
from lowrise.cost.criteria import stages_of, trials
from lowrise.cost.describe import shape_and_layer, shape_of
from lowrise.cost.job import Job, Text
from lowrise.cost.repairs import refit_work
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import COMMANDS, decoded
from lowrise.cost.timing import Timed, timed
from lowrise.cost.work import Rates, Work
from lowrise.edit.context import RepairTask
from lowrise.edit.repair import repair
from lowrise.edit.student import Student
from lowrise.errors import ModelError, RecipeError
from lowrise.methods import methods
from lowrise.model.decoder import Decoder
from lowrise.model.layer import Layer
from lowrise.model.matrices import ReachedError
from lowrise.pipeline import estimating as estimates
from lowrise.pipeline.estimating import Known, estimate_of
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, presets
from lowrise.results import Estimate
from lowrise.select.choice import spans_of
from lowrise.select.greedy import choose_greedily
from lowrise.select.refit_search import choose_by_refit, choose_span_by_refit
from lowrise.work import Work as Kept
from refusals import assert_one_line, contents
from shared_keys import decoder_of
from tiny_families import tiny_model

Main = Callable[..., tuple[int, str, str]]
SMALL = ["--samples", 8, "--length", 32, "--device", "cpu"]


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(tiny.model())


@pytest.fixture
def asked(tiny_folder: Path, text_file: Path) -> list[Any]:
    return [tiny_folder, "--text", text_file, *SMALL]


# -- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["refit", "streamline-none", "streamline", "laco-mean", "greedy-perplexity"])
def test_a_dry_run_says_three_lines_and_writes_nothing(
    main: Main, asked: list[Any], tmp_path: Path, cache: Path, preset: str
) -> None:
    status, out, err = main("run", *asked, "--preset", preset, "--remove", 2, "--out", tmp_path / "out", "--dry-run")
    assert status == 0, err
    what, when, needs = out.splitlines()
    assert "from 6 to 4 layers" in what
    assert preset in what
    assert when.startswith("estimate: about ")
    assert needs.startswith("estimate: memory up to ")
    assert " stay" in needs
    assert contents(tmp_path) == {}
    assert not cache.exists()


def test_of_plan_heal_and_compare_too(main: Main, asked: list[Any], tiny_folder: Path, tmp_path: Path) -> None:
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    before = contents(tmp_path)
    out = ["--out", tmp_path / "out", "--dry-run"]
    for arguments in (
        ["plan", *asked, "--remove", 2],
        ["heal", shallow, "--dense", tiny_folder, "--tokens", "1k", *asked[1:3]],
        ["compare", *asked, "--presets", "refit,streamline-none", "--remove", "1,2"],
    ):
        status, said, err = main(*arguments, *out)
        assert status == 0, err
        assert len(said.splitlines()) == 3
        assert said.startswith(f"{arguments[0]}: ")
    assert contents(tmp_path) == before


def test_as_json_it_is_typed(main: Main, asked: list[Any], tmp_path: Path) -> None:
    status, out, _ = main("run", *asked, "--remove", 2, "--out", tmp_path / "out", "--dry-run", "--json", "--quiet")
    found = Estimate.model_validate_json(out)
    assert (status, found.command, found.layers, found.layers_after, found.tokens) == (0, "run", 6, 4, 256)
    assert found.seconds == pytest.approx(sum(stage.seconds for stage in found.stages), abs=0.01)
    assert found.memory_bytes == max(stage.memory_bytes for stage in found.stages)
    assert found.disk_bytes >= found.kept_bytes > 0


@pytest.mark.usefixtures("regressions_alone")
def test_a_run_says_the_same_first_and_at_last_what_it_took(
    main: Main, asked: list[Any], text_file: Path, tmp_path: Path
) -> None:
    arguments = ["run", *asked, "--preset", "refit-span", "--remove", 2, "--eval-text", text_file, "--windows", 2]
    status, _, err = main(*arguments, "--out", tmp_path / "told")
    assert status == 0, err
    lines = err.splitlines()
    said = next(number for number, line in enumerate(lines) if line.startswith("estimate: about "))
    assert "from 6 to 4 layers" in lines[said - 1]
    assert lines[said + 1].startswith("estimate: memory up to ")
    assert not any("chosen: layers" in line for line in lines[:said])
    assert lines[-1].startswith("took ")
    assert ", estimated " in lines[-1]
    assert main(*arguments, "--out", tmp_path / "quiet", "--quiet")[2] == ""
    told, quiet = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("told", "quiet"))
    assert told == quiet  # that a layer was timed changes nothing


def test_a_comparison_hears_what_its_first_step_expects(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Path
) -> None:
    asked_for = tmp_path / "asked.json"
    request = ask(["tail"], ["2"], [{"model": str(asked[0]), "text": [str(asked[2])], "length": 32}], where="")
    asked_for.write_text(request.to_json(), encoding="utf-8")
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _self, text: said.append(text))
    preparing.prepare(tmp_path, asked_for, Reporter())
    assert said[0].startswith("compare: ")
    assert said[1].startswith("estimate: about ")
    kept = json.loads((tmp_path / "prepared.json").read_text(encoding="utf-8"))["estimate"]
    assert {*kept} == {estimating.PREPARING, estimating.DENSE, "tail at 2"}


def test_bad_input_is_refused_as_by_the_command(main: Main, asked: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine", encoding="utf-8")
    for arguments, fragment in (
        (["run", *asked, "--remove", 9], "--remove"),
        (["run", asked[0], "--text", tmp_path / "none.txt"], "none.txt"),
        (["run", tmp_path / "no-model", "--text", asked[2]], "no-model"),
        (["run", *asked, "--keep-parameters", "many"], "--keep-parameters"),
        (["heal", asked[0], "--text", asked[2]], "--dense"),
        (["compare", *asked, "--presets", "refit", "--remove", "9"], "--remove"),
    ):
        assert_one_line(*main(*arguments, "--out", out, "--dry-run", "--quiet"), (fragment,))
    assert_one_line(*main("run", *asked, "--out", tmp_path / "taken", "--dry-run", "--quiet"), ("taken",))


# -- Python ---------------------------------------------------------------------------------------------------------


def test_of_a_config_alone_it_is_as_of_the_model() -> None:
    settings = {"preset": "streamline-none", "remove": 2, "samples": 8, "length": 32, "device": "cpu"}
    by_config = lowrise.estimate(tiny.config("llama"), **settings)
    model = lowrise.wrap(tiny.model(), tiny.tokenizer())
    by_model = lowrise.estimate(model, **settings)
    assert [stage.name for stage in by_config.stages] == [stage.name for stage in by_model.stages]
    assert by_config.kept_bytes == by_model.kept_bytes
    assert (by_config.layers, by_config.layers_after) == (6, 4)


def test_a_command_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(RecipeError, match="run, plan, apply, heal"):
        lowrise.estimate(tiny.config("llama"), command="measure")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "gpt2", "phi3"])
def test_a_config_has_the_shape_of_its_model(family: str) -> None:
    decoder = Decoder(tiny.model(family))
    how = {"compute": torch.float32, "stored": 4, "device": torch.device("cpu")}
    shape, layer = shape_and_layer(tiny.config(family), "model", **how)
    assert shape == shape_of(decoder, "model", 4)
    assert shape.parameters == decoder.parameters()
    assert len(layer) == 1


def test_a_family_with_a_width_for_each_layer_has_that_of_the_widest() -> None:
    made = decoder_of("gemma3n_text")
    assert shape_of(made, "model", 4).inner == max(made.config.intermediate_size)


def test_a_config_that_nothing_can_be_made_of_is_refused() -> None:
    config = tiny.config("llama")
    config.hidden_act = "none of these"
    how: dict[str, Any] = {"compute": torch.float32, "stored": 4, "device": torch.device("cpu")}
    with pytest.raises(ModelError, match="random layer"):
        shape_and_layer(config, "model", **how)


def test_timing_draws_no_number_and_leaves_the_model_alone(decoder: Decoder) -> None:
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    state = torch.get_rng_state()
    found = timed(decoder, shape_of(decoder, "model", 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    assert not any(one.requires_grad and one.grad is not None for one in decoder.model.parameters())
    assert found.rates.forward > 0
    assert found.rates.solves > 0


class Formats:
    """What passes of a layer with gradients were computed in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[torch.dtype, torch.dtype]] = set()
        call = Layer.call

        def noted(layer: Layer, h: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
            if torch.is_grad_enabled():
                casting = torch.is_autocast_enabled("cpu")
                self.seen.add((h.dtype, torch.get_autocast_dtype("cpu") if casting else h.dtype))
            return call(layer, h, *given, **named)

        monkeypatch.setattr(Layer, "call", noted)


FULL, SHORT, HALF = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("command", "heal", "formats"),
    [
        ("run", None, {(FULL, FULL)}),
        ("plan", {"tokens": "1k", "precision": "bf16"}, {(FULL, FULL)}),
        ("run", {"tokens": "1k", "precision": "bf16"}, {(FULL, FULL), (FULL, SHORT)}),
        ("run", {"tokens": "1k", "precision": "fp16"}, {(FULL, FULL), (FULL, HALF)}),
        ("run", {"tokens": "1k", "precision": "no"}, {(FULL, FULL)}),
        ("run", {"tokens": "1k"}, {(FULL, FULL), (FULL, SHORT)}),
    ],
)
def test_what_is_timed_is_what_a_healing_will_compute_in(
    monkeypatch: pytest.MonkeyPatch, command: Any, heal: Any, formats: set[Any]
) -> None:
    """On a processor with AMX, where bfloat16 is usual."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    seen = Formats(monkeypatch)
    lowrise.estimate(tiny.config("llama"), command=command, preset="tail", remove=2, device="cpu", heal=heal)
    assert seen.seen == formats


def test_a_model_in_bfloat16_is_timed_in_float32_where_it_is_healed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Formats(monkeypatch)
    heal = {"tokens": "1k", "precision": "no"}
    how = {"preset": "tail", "remove": 2, "device": "cpu", "dtype": "bfloat16", "heal": heal}
    lowrise.estimate(tiny.config("llama"), **how)  # type: ignore[arg-type]
    assert seen.seen == {(SHORT, SHORT), (FULL, FULL)}


def test_layers_that_bear_no_bfloat16_are_timed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lowrise.wrap(tiny_model("xmod"), tiny.tokenizer())
    seen = Formats(monkeypatch)
    heal = {"tokens": "1k", "precision": "bf16"}
    found = lowrise.estimate(model, preset="tail", remove=1, samples=4, length=16, device="cpu", heal=heal)
    assert "healing" in found.by_stage()
    assert seen.seen == {(FULL, FULL), (FULL, SHORT)}


def test_a_dry_run_of_heal_follows_the_recipe(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of the two models are alike: one is timed."""
    seen, asked = Formats(monkeypatch), list[object]()
    monkeypatch.setattr(estimates, "timed", lambda *given: asked.append(given) or timed(*given))
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    recipe = tmp_path / "recipe.yaml"
    how = ["--dense", tiny_folder, "--text", text_file, "--recipe", recipe, "--device", "cpu", "--dry-run"]
    for precision, formats in (("no", {(FULL, FULL)}), ("bf16", {(FULL, FULL), (FULL, SHORT)})):
        recipe.write_text(f'heal: {{tokens: 1k, precision: "{precision}"}}\n')
        status, _, errors = main("heal", shallow, *how, "--out", tmp_path / "out")
        assert status == 0, errors
        assert seen.seen == formats
    assert len(asked) == 2


# -- what it is counted from ----------------------------------------------------------------------------------------


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
