"""What a command says before it begins: the three lines, `--dry-run`, the typed result, and how one layer is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import tiny
from lowrise.compare import ask, estimating, preparing
from lowrise.cost.describe import shape_and_layer, shape_of
from lowrise.cost.timing import timed
from lowrise.errors import ModelError, RecipeError
from lowrise.model.decoder import Decoder
from lowrise.model.layer import Layer
from lowrise.pipeline import estimating as estimates
from lowrise.progress import Reporter
from lowrise.results import Estimate
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
