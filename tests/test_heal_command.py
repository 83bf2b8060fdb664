"""`lowrise heal` by its real entry point, on a tiny model: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import lowrise
import tiny
from heal_texts import CHAT, chat_file, talk
from lowrise.errors import RecipeError
from lowrise.heal.processes import begin_logs, start
from lowrise.pipeline.healing import heal as heal_model
from lowrise.progress import Reporter
from lowrise.ranks import is_alone, is_first
from lowrise.recipe import build_recipe
from lowrise.report import words
from lowrise.results import Results
from lowrise.settings import Heal
from lowrise.work import Work
from refusals import Main, assert_one_line

COMMON = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, text_file: Path) -> Path:
    """The tiny model without two layers, with its plan."""
    from lowrise import pipeline
    from lowrise.progress import Reporter
    from lowrise.recipe import build_recipe

    out = tmp_path_factory.mktemp("cuts") / "shallow"
    given = {"model": str(tiny_folder), "preset": "given", "layers": "2,3", "text": [str(text_file)], "device": "cpu"}
    pipeline.run(build_recipe({**given, "samples": 4, "length": 32}), out, False, Reporter(quiet=True))
    return out


def test_heal_writes_a_checkpoint_that_is_better_and_says_so(
    main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5))
    heal = ["--dense", tiny_folder, "--text", text_file, "--tokens", "4k", "--length", 32, "--learning-rate", 0.003]
    heal += ["--objective", "mix", "--guard", guard]  # words are nothing that a random model knows, so not kl alone
    status, printed, errors = main("heal", shallow, *heal, "--out", out, *COMMON, "--json")
    assert status == 0, errors
    results = Results.model_validate(json.loads(printed))
    healing = results.healing
    assert healing is not None
    assert (healing.trained, healing.objective, healing.teacher) == ("all", "mix", "resident")
    assert healing.steps == len(healing.train) == 4
    assert healing.kept > 0
    assert results.generation is not None
    assert results.generation.agreement is not None  # with the dense model, as of every shallower one
    assert min(loss for _, loss in healing.train[-2:]) < healing.train[0][1]
    assert json.loads((out / "lowrise/results.json").read_text())["healing"] == json.loads(printed)["healing"]
    assert (out / "lowrise/plan.json").read_bytes() == (shallow / "lowrise/plan.json").read_bytes()
    page = (out / "lowrise/report.html").read_text()
    assert "Healing" in page
    start, dense = healing.before[text_file.name], results.dense
    assert dense is not None
    ratio = words.ratio(start.value / dense.perplexity[text_file.name].value)
    row = ["perplexity before healing", text_file.name, words.decimal(start.value), ratio]
    shown = page.split("perplexity before healing")[1].split("</tr>")[0]
    assert all(cell in shown for cell in row[1:])
    assert f"{row[0]}, {row[1]} |" in (out / "README.md").read_text()
    assert (out / "lowrise/healing.svg").is_file()
    healed, before = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, shallow))
    assert not torch.equal(healed.lm_head.weight, before.lm_head.weight)
    assert len(healed.model.layers) == tiny.LAYERS - 2


def test_bad_input_is_one_line(main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    def refused(*given: object, says: tuple[object, ...]) -> None:
        status, out, err = main("heal", *given, "--out", tmp_path / "out", *COMMON)
        assert_one_line(status, out, err, says)
        assert not (tmp_path / "out").exists()

    text = ["--text", text_file]
    refused(tiny_folder, "--dense", tiny_folder, *text, says=("fewer layers", "6"))
    refused(shallow, "--dense", tiny_folder, *text, "--tokens", "0", says=("--tokens", "100k or 2M"))
    refused(shallow, *text, says=("--dense", "name one"))
    refused(shallow, "--dense", tiny_folder, *text, "--report-to", "nothing", says=("--report-to", "accelerate"))
    refused(shallow, "--dense", tiny_folder, *text, "--tokens", "9M", says=("text for 8,999,936 tokens", "give more"))
    refused(shallow, "--dense", tiny_folder, *text, "--train", "head", says=("--train:", "'gaps'", "'head'"))
    refused(shallow, "--dense", tiny_folder, *text, "--teacher", "disk", says=("--teacher:", "'stored'", "'disk'"))
    recipe = tmp_path / "recipe.yaml"
    for heal, says in (
        ("precision: fp16", ("heal.precision", "bf16", "fp16")),
        ("objective: ce, temperature: 2", ("heal", "temperature with objective: kl or mix alone")),
        ("mix: 0.9", ("heal", "mix with objective: mix alone")),
        ("train: gaps, rank: 4", ("heal", "rank with train: lora alone")),
    ):
        recipe.write_text(f"heal: {{{heal}}}\n", encoding="utf-8")
        refused(shallow, "--dense", tiny_folder, *text, "--recipe", recipe, says=says)
    larger = tiny.save(tmp_path / "larger", vocab_size=tiny.VOCABULARY + 20)
    refused(shallow, "--dense", larger, *text, says=("as many tokens", "320", "300", "resize_token_embeddings"))


def test_text_data_set_conversations_and_own_writing_are_learned_together(
    main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    dense, cut = (shutil.copytree(one, tmp_path / name) for one, name in ((tiny_folder, "dense"), (shallow, "cut")))
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT
    for folder in (dense, cut):
        tokenizer.save_pretrained(folder)
    data, chat = tmp_path / "data.jsonl", chat_file(tmp_path / "chat.jsonl", [talk(seed, 12) for seed in range(40)])
    data.write_text("\n".join(json.dumps({"text": tiny.text(40, seed)}) for seed in range(60)), encoding="utf-8")
    how = ["--text", text_file, "--dataset", data, "--chat", chat, "--synthetic-share", 0.25, "--tokens", "2k"]
    out = tmp_path / "out"
    status, _, errors = main("heal", cut, "--dense", dense, *how, "--length", 32, "--out", out, *COMMON)
    assert status == 0, errors
    healing = Results.model_validate(json.loads((out / "lowrise/results.json").read_text())).healing
    assert healing is not None
    assert {text_file.name, "chat.jsonl", "written by the model"} < healing.held_out.keys()
    assert len(healing.held_out) == 5  # with the data set and the guard


@pytest.mark.parametrize(
    ("environment", "says"),
    [({"WORLD_SIZE": "2", "RANK": "0"}, ("WORLD_SIZE", "MASTER_ADDR")), ({"LOCAL_RANK": "x"}, ("LOCAL_RANK", "'x'"))],
)
def test_an_environment_that_no_launcher_made_is_one_line(
    shallow: Path, tiny_folder: Path, tmp_path: Path, environment: dict[str, str], says: tuple[str, ...]
) -> None:
    """In a process of its own, for accelerate's state is one for all."""
    command = [sys.executable, "-m", "lowrise", "heal", shallow, "--dense", tiny_folder, "--out", tmp_path / "out"]
    done = subprocess.run(
        [*map(str, command), *map(str, COMMON)], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert_one_line(done.returncode, done.stdout, done.stderr, says)


def test_loggers_are_given_numbers_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorboard takes no lists; what a logger raises, as without a login, is one line."""
    given: list[dict[str, Any]] = []
    accelerator = start(Heal(), "cpu")
    monkeypatch.setattr(accelerator, "init_trackers", lambda _name, config: given.append(config))
    begin_logs(accelerator, Heal())
    assert given == []
    settings = Heal(report_to=["tensorboard", "wandb"], chat=["a.jsonl"])
    begin_logs(accelerator, settings)
    assert all(isinstance(one, int | float | str | bool) for one in given[0].values())
    assert (given[0]["report_to"], given[0]["chat"]) == ("tensorboard, wandb", "a.jsonl")

    def refuses(*_: object, **__: object) -> None:
        raise OSError("no login")

    monkeypatch.setattr(accelerator, "init_trackers", refuses)
    with pytest.raises(RecipeError, match=r"--report-to: expected loggers that start, found no login"):
        begin_logs(accelerator, settings)


def test_accumulation_that_the_launcher_asks_for_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    start(Heal(), "cpu").backward(3 * weight.sum())
    assert weight.grad == 3


@pytest.mark.parametrize(
    ("environment", "first", "alone"),
    [({}, True, True), ({"RANK": "3"}, True, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False, False),
     ({"RANK": "0", "WORLD_SIZE": "2"}, True, False), ({"RANK": "1", "WORLD_SIZE": "1"}, True, True)],
)  # fmt: skip
def test_a_number_among_no_others_silences_nothing(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool, alone: bool
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (is_first(), is_alone()) == (first, alone)


def test_a_model_that_another_tool_cut_is_healed_without_a_plan(
    main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers beside the gap are found by their weights. Where the guard gets worse the start is kept, loudly."""
    monkeypatch.setattr("lowrise.heal.guarding.Guarding.worse", lambda *_: True)  # random models cannot get worse
    cut, out = shutil.copytree(shallow, tmp_path / "cut"), tmp_path / "out"
    shutil.rmtree(cut / "lowrise")
    (cut / "README.md").unlink()
    heal = ["--dense", tiny_folder, "--text", text_file, "--tokens", "1k", "--length", 32, "--train", "gaps"]
    status, printed, errors = main("heal", cut, *heal, "--objective", "ce", "--out", out, *COMMON, "--json")
    assert status == 0, errors
    assert "warning: healing is not kept" in errors
    healing = Results.model_validate(json.loads(printed)).healing
    assert healing is not None
    assert (healing.kept, healing.teacher, healing.trained) == (0, None, "gaps")
    assert healing.before == healing.after
    page = (out / "lowrise/report.html").read_text(encoding="utf-8")
    assert "Nothing of it is kept" in page
    assert "⏎×5: five line ends in a row" in page
    assert not (out / "lowrise/plan.json").exists()
    healed, start = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, cut))
    assert all(torch.equal(one, other) for one, other in zip(healed.parameters(), start.parameters(), strict=True))
    assert main("report", out)[0] == 0
    assert (out / "lowrise/report.html").read_text(encoding="utf-8") == page


def test_a_tied_head_is_kept_once_and_goes_on_with_the_same_bytes(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names of one tensor, in the state that is kept and in the best weights. Killed after a step was kept."""
    monkeypatch.setattr("lowrise.heal.state.SHARE", float("inf"))
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 1)
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5), encoding="utf-8")
    dense = tiny.save(tmp_path / "dense", tie_word_embeddings=True)
    small = lowrise.open(dense, device="cpu")
    lowrise.apply(small, lowrise.plan(small, layers=[2, 3])).save(tmp_path / "cut")
    heal = {"dense": str(dense), "tokens": "300", "length": 24, "batch_tokens": 72, "train": "all", "objective": "ce"}
    heal |= {"learning_rate": 0.01, "guard": str(guard)}
    recipe = build_recipe({"model": str(tmp_path / "cut"), "text": [str(text_file)], "device": "cpu", "heal": heal})
    heal_model(recipe, tmp_path / "whole", False, Reporter(quiet=True))
    keep, kept = Work.keep, list[str]()

    def killing(work: Work, name: str, *given: Any, **how: Any) -> None:
        keep(work, name, *given, **how)
        kept.append(name)
        if kept.count("healing") == 2 and name == "healing":
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "keep", killing)
    with pytest.raises(KeyboardInterrupt):
        heal_model(recipe, tmp_path / "killed", False, Reporter(quiet=True))
    heal_model(recipe, tmp_path / "killed", False, Reporter(quiet=True))
    assert kept.count("healing") == 4
    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    healed = AutoModelForCausalLM.from_pretrained(tmp_path / "killed")
    assert healed.lm_head.weight is healed.model.embed_tokens.weight
    cut = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert not torch.equal(healed.lm_head.weight, cut.lm_head.weight)


@pytest.mark.parametrize("teacher", ["resident", "stored"])
def test_a_run_that_was_killed_goes_on_with_the_same_command_and_makes_the_same_bytes(
    shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    """Killed after every record; lora, whose first weights are drawn."""
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5), encoding="utf-8")
    monkeypatch.setattr("lowrise.heal.state.SHARE", float("inf"))
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 1)
    monkeypatch.setattr("lowrise.pipeline.healed_output.build_report", lambda _folder: {})
    heal = {"dense": str(tiny_folder), "tokens": "300", "length": 24, "batch_tokens": 72, "train": "lora", "rank": 4}
    heal |= {"teacher": teacher, "objective": "mix", "mix": 0.1, "learning_rate": 0.01, "guard": str(guard)}
    recipe = build_recipe({"model": str(shallow), "text": [str(text_file)], "device": "cpu", "heal": heal})
    heal_model(recipe, tmp_path / "whole", False, Reporter(quiet=True))
    keep = Work.keep

    def killing(work: Work, name: str, *given: Any, **how: Any) -> None:
        keep(work, name, *given, **how)
        if work.keeps:
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "keep", killing)
    kills = 0
    while not (tmp_path / "killed").exists():
        with suppress(KeyboardInterrupt):
            heal_model(recipe, tmp_path / "killed", False, Reporter(quiet=True))
        kills += 1
        assert kills < 20
    assert kills == 1 + 4 + 1  # of the tokens, and one of every step
    names = ["model.safetensors", "lowrise/plan.json", "lowrise/recipe.yaml"]
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    first, second = (json.loads((tmp_path / name / "lowrise/results.json").read_text()) for name in ("whole", "killed"))
    assert first["healing"]["kept"] > 0
    changing = {"seconds", "tokens_per_second"}
    assert first["healing"].keys() == second["healing"].keys()
    assert all(first["healing"][key] == second["healing"][key] for key in first["healing"].keys() - changing)


def test_what_the_model_wrote_to_train_on_is_not_written_again(
    main: Main, shallow: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own writing and guard, after a stop within training."""
    monkeypatch.setattr("lowrise.heal.sources.HELD_OUT", 128)
    out = tmp_path / "out"
    command = ["heal", shallow, "--dense", tiny_folder, "--tokens", "600", "--length", 24, "--objective", "ce"]
    command += ["--out", out, "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("lowrise.heal.training._step", _stopped)
        status, _, errors = main(*command)
        assert status == 130, errors
    for module in ("data", "sources"):
        monkeypatch.setattr(f"lowrise.heal.{module}.write_windows", _stopped)
    status, _, errors = main(*command)
    assert status == 0, errors
    assert "training tokens: kept from before" in errors


def _stopped(*_: object, **__: object) -> None:
    raise SystemExit(130)


def test_where_the_teacher_is_stays_when_a_run_goes_on(
    main: Main, shallow: Path, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory is free may have changed, and what is stored is rounded. Adapters' rank is said as it is."""
    places = iter(["stored", "resident"])
    monkeypatch.setattr("lowrise.pipeline.healing_steps._usual_place", lambda _models: next(places))
    guard = tmp_path / "guard.txt"
    guard.write_text(tiny.text(600, seed=5), encoding="utf-8")
    heal = ["--dense", tiny_folder, "--text", text_file, "--guard", guard, "--tokens", 300, "--length", 32]
    heal += ["--train", "lora", "--rank", 64]
    command = ["heal", shallow, *heal, "--out", tmp_path / "out", *COMMON, "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("lowrise.pipeline.healing_steps.train", lambda *_: sys.exit(130))
        assert main(*command)[0] == 130
    status, printed, errors = main(*command)
    assert status == 0, errors
    healing = json.loads(printed)["healing"]
    assert (healing["teacher"], healing["rank"]) == ("stored", 32)
