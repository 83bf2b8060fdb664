"""`lowrise.heal`: the command's healing, on models in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lowrise
import tiny
from lowrise.errors import ModelError, RecipeError, TextError
from lowrise.heal.guarding import Guarding
from lowrise.settings import Heal

Main = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.filterwarnings("ignore::lowrise.api.progress.LowriseWarning")
# words are nothing that a random model knows, so by next-token loss; a guard, so that nothing has to be written
HOW: dict[str, Any] = {"tokens": "1k", "length": 24, "objective": "ce", "learning_rate": 0.003}
HOW |= {"text": ["a.txt"], "guard": "b.txt", "batch_tokens": 240}


@pytest.fixture
def small(here: Path) -> lowrise.Model:  # noqa: ARG001 - the folder it lies in
    model = lowrise.open("org/name", device="cpu")
    return lowrise.apply(model, lowrise.plan(model, layers=[2, 3], text="a.txt", samples=4, length=16))


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("train", ["all", "lora"])
def test_it_makes_the_weights_of_the_command_in_place(small: lowrise.Model, main: Main, train: str) -> None:
    cut = small.save("cut")
    live = small.hf_model
    healed = lowrise.heal(small, "org/name", train=train, **HOW)  # type: ignore[arg-type]
    assert healed is small
    assert healed.hf_model is live
    assert healed.healing is not None
    assert healed.healing.kept > 0
    options = ["--text", "a.txt", "--guard", "b.txt", "--tokens", "1k", "--length", 24, "--objective", "ce"]
    recipe = Path("heal.yaml")
    recipe.write_text("heal: {batch_tokens: 240}\n", encoding="utf-8")
    options += ["--learning-rate", 0.003, "--train", train, "--recipe", recipe, "--device", "cpu", "--quiet", "--json"]
    status, printed, errors = main("heal", cut, "--dense", "org/name", *options, "--out", "command")
    assert status == 0, errors
    healed.save("api")
    ours, theirs = (load_file(Path(name, "model.safetensors")) for name in ("api", "command"))
    assert same(ours, theirs)
    record = json.loads(printed)["healing"]
    changing = {"seconds", "tokens_per_second"}
    found = json.loads(healed.healing.to_json())
    assert {key: found[key] for key in found.keys() - changing} == {key: record[key] for key in found.keys() - changing}
    assert json.loads(Path("api/lowrise/healing.json").read_text()) == found


def test_measure_and_notebooks_show_what_was_healed(small: lowrise.Model) -> None:
    lowrise.heal(small, "org/name", **HOW)
    results = lowrise.measure(small, dense="org/name", text="b.txt", length=16)
    assert results.healing == small.healing
    assert results.healing is not None
    shown = [results._repr_html_(), results.healing._repr_html_(), small._repr_html_()]
    assert "tokens healed on" in shown[0]
    assert "held-out loss, guard: b.txt" in shown[1]
    assert "Healed on" in shown[2]
    for html in shown:
        assert not re.search(r"(https?:)?//|<script|\bon\w+=", html)
    assert "healed on 984 tokens" in repr(small)


def test_a_notebook_says_no_more_that_a_cut_has_collapsed_which_was_healed(small: lowrise.Model) -> None:
    assert small.plan is not None
    small.plan.scores = {"held_out": {"dense": 2.0, "after": 4.0, "perplexity_ratio": 7.39}}
    assert "has collapsed" in small._repr_html_()
    assert "×7.39" in small._repr_html_()
    lowrise.heal(small, "org/name", **HOW)
    assert "has collapsed" not in small._repr_html_()
    assert "×7.39" not in small._repr_html_()


def test_a_dense_model_stays_as_it_is_and_what_was_edited_is_none(small: lowrise.Model) -> None:
    with pytest.raises(
        ModelError, match=r"dense, org/name: .*in place; open it again: dense=lowrise.open\('org/name'\)"
    ):
        lowrise.heal(small, small, **HOW)
    dense = lowrise.open("org/name", device="cpu")
    before, live = state(dense.hf_model), dense.hf_model
    lowrise.heal(small, dense, **{**HOW, "objective": "mix", "teacher": "stored"})
    assert dense.hf_model is live
    assert same(before, state(live))
    with pytest.raises(ModelError, match=r"expected a model of fewer layers than org/name, which has 6, found 6"):
        lowrise.heal(lowrise.open("org/name"), dense, **HOW)
    mine = lowrise.wrap(tiny.model(max_position_embeddings=32), tiny.tokenizer())
    lowrise.apply(mine, lowrise.plan(mine, lowrise.tokens(tiny.ids(4, 16, 0)), layers=[2]))
    with pytest.raises(ModelError, match="load it anew and wrap that"):
        lowrise.heal(small, mine, **HOW)


def test_what_was_healed_is_planned_for_no_more(small: lowrise.Model) -> None:
    small.save("cut")
    shallow = lowrise.heal(lowrise.open("cut", device="cpu"), "org/name", **HOW)
    with pytest.raises(ModelError, match="a model that was not healed, found one with 4 layers"):
        lowrise.plan(shallow, layers=[1])


def test_a_wrapped_model_keeps_formats_modes_and_gradients(here: Path) -> None:  # noqa: ARG001
    live = tiny.model(max_position_embeddings=32, num_hidden_layers=4).to(torch.bfloat16).train()
    first = next(live.parameters()).requires_grad_(False)
    formats = {name: value.dtype for name, value in live.state_dict().items()}
    before = state(live)
    model = lowrise.wrap(live, tiny.tokenizer())
    lowrise.heal(model, "org/name", **HOW, train="lora", rank=4)
    assert {name: value.dtype for name, value in live.state_dict().items()} == formats
    assert not same(before, state(live))
    assert live.training
    assert next(live.parameters()) is first
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in live.parameters())
    assert not hasattr(live, "peft_config")


@pytest.mark.parametrize("train", ["all", "lora", "tail"])
def test_what_is_worse_or_interrupted_leaves_the_model_as_it_was(
    here: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    train: Any,
) -> None:
    live = tiny.model(max_position_embeddings=32, num_hidden_layers=4).to(torch.bfloat16)
    model, before = lowrise.wrap(live, tiny.tokenizer()), state(live)
    with monkeypatch.context() as patch:
        patch.setattr(Guarding, "worse", lambda *_: True)
        lowrise.heal(model, "org/name", **HOW, train=train)
    assert model.healing is not None
    assert model.healing.kept == 0
    assert any("healing is not kept" in warning for warning in model.warnings)
    assert same(before, state(live))
    assert model.healing.before == model.healing.after

    def stopped(event: lowrise.Event) -> None:
        if event.stage == "healing" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowrise.heal(model, "org/name", **HOW, train=train, progress=stopped)
    assert same(before, state(live))


def test_errors_are_one_line(small: lowrise.Model) -> None:
    before = state(small.hf_model)

    def refused(kind: type[Exception], match: str, **given: Any) -> None:
        with pytest.raises(kind, match=match):
            lowrise.heal(small, "org/name", **{**HOW, **given})
        assert same(before, state(small.hf_model))

    refused(RecipeError, "--tokens: expected a number of tokens such as 100k or 2M, found Calibrated",
            tokens=lowrise.tokens(tiny.ids(2, 16, 0)))  # fmt: skip
    refused(RecipeError, "100k or 2M", tokens=0)
    refused(RecipeError, "temprature'; did you mean temperature", temprature=2)
    refused(TextError, "--guard nowhere.txt", guard="nowhere.txt")
    refused(TextError, "give more text", tokens="9M")
    refused(RecipeError, "--train network", train="network")
    assert small.healing is None


def test_run_and_compare_take_heal_as_a_key_of_recipes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 2)
    asked: list[Any] = []
    heal = {key: HOW[key] for key in ("tokens", "length", "objective", "learning_rate", "guard")}
    recipe: dict[str, Any] = {"text": ["a.txt"], "samples": 4, "length": 16, "heal": heal}
    results = lowrise.run("org/name", "ran", preset="tail", remove=2, device="cpu", **recipe)
    assert results.command == "run"
    assert results.healing is not None
    assert (results.healing.objective, results.healing.length) == ("ce", 24)
    monkeypatch.setattr("lowrise.api.runs.compare_presets", lambda request, *_: asked.append(request))
    lowrise.compare("org/name", ["tail", "streamline-llm"], [2], "compared", **{**recipe, "heal": "1k"})
    assert [one.heal for one in asked[0].recipes] == [
        Heal(tokens="1k"),
        Heal(tokens="1k", objective="ce", train="network"),
    ]
