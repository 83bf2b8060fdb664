"""The commands through their real entry point, on a tiny model: what they write, print and leave behind."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny

Main = Callable[..., tuple[int, str, str]]
QUICK = ["--samples", "10", "--length", "32", "--quiet"]


def recipe(folder: Path, **settings: Any) -> Path:
    """A recipe file that trains for two epochs only."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"training": {"epochs": 2}, **settings}))
    return file


def loaded(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("preset", "options", "layers", "plain"),
    [
        ("streamline", [], 4, True),
        ("streamline-none", [], 4, True),
        ("streamline-ffn", [], 3, False),
        ("streamline-swiglu", [], 3, False),
        ("streamline-ffn", ["--form", "portable"], 4, True),
        ("streamline-swiglu", ["--form", "portable"], 4, True),
    ],
)
def test_run_writes_a_checkpoint_that_loads_as_its_preset_says(
    main: Main,
    tiny_folder: Path,
    text_file: Path,
    tmp_path: Path,
    preset: str,
    options: list[str],
    layers: int,
    plain: bool,
) -> None:
    out = tmp_path / "out"
    status, printed, errors = main(
        "run", tiny_folder, "--preset", preset, "--remove", "2", "--text", text_file, "--out", out, "--json", *options,
        *QUICK, "--recipe", recipe(tmp_path),
    )  # fmt: skip
    assert status == 0, errors
    results = json.loads(printed)
    assert results["layers"] == 4
    assert results["dense"]["layers"] == 6
    assert results == json.loads((out / "lowrise/results.json").read_text())
    model = loaded(out, trust_remote_code=not plain)
    assert model.config.num_hidden_layers == layers
    assert sum(p.numel() for p in model.parameters()) == results["parameters"]
    plan = json.loads((out / "lowrise/plan.json").read_text())
    assert plan["parameters_after"] == results["parameters"]
    assert plan["loads_plainly"] is plain
    assert len(AutoTokenizer.from_pretrained(out)) == len(tiny.tokenizer())
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("out", "recipe.yaml")] == []


@pytest.fixture(scope="module")
def nine_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for a criterion that keeps the first four and last two."""
    return tiny.save(tmp_path_factory.mktemp("nine") / "model", num_hidden_layers=9)


@pytest.mark.parametrize("preset", ["block-influence", "angular", "greedy-perplexity", "taylor", "tail", "random"])
def test_the_peers_criteria_run_and_their_plans_apply(
    main: Main, nine_layers: Path, text_file: Path, tmp_path: Path, preset: str
) -> None:
    out = tmp_path / "out"
    status, printed, errors = main("run", nine_layers, "--preset", preset, "--remove", "3", "--seed", 1, "--text",
                                   text_file, "--out", out, "--json", *QUICK)  # fmt: skip
    assert status == 0, errors
    assert json.loads(printed)["layers"] == 6
    plan = json.loads((out / "lowrise/plan.json").read_text())
    gone = [layer for edit in plan["edits"] for layer in range(edit["start"], edit["stop"])]
    assert {edit["kind"] for edit in plan["edits"]} == {"drop"}
    assert all(a["stop"] < b["start"] for a, b in zip(plan["edits"], plan["edits"][1:], strict=False))
    assert len(gone) == 3
    assert plan["scores"]["criterion"] == preset
    assert plan["calibration"]["samples"] == 10
    assert plan["parameters_after"] == json.loads(printed)["parameters"]
    kept = [layer for layer in range(9) if layer not in gone]
    dense, cut = loaded(nine_layers), loaded(out)
    for index, original in enumerate(kept):
        ours, theirs = cut.model.layers[index].state_dict(), dense.model.layers[original].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    status, _, errors = main("apply", nine_layers, out / "lowrise/plan.json", "--out", tmp_path / "again", "--quiet")
    assert status == 0, errors
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


@pytest.mark.parametrize(("preset", "samples"), [("tail", 4), ("random", 4), ("greedy-perplexity", 4), ("taylor", 10)])
def test_a_criterion_that_needs_few_windows_asks_for_few(
    main: Main, nine_layers: Path, text_file: Path, tmp_path: Path, preset: str, samples: int
) -> None:
    chosen = ["--preset", preset, "--remove", 1, "--text", text_file, "--length", 32]
    status, _, errors = main("plan", nine_layers, *chosen, "--out", tmp_path / "plan.json", "--quiet")
    assert status == 0, errors
    calibration = json.loads((tmp_path / "plan.json").read_text())["calibration"]
    assert (calibration["samples"], calibration["tokens"]) == (samples, 32 * samples)


def test_a_checkpoint_in_the_published_form_is_refused_without_its_modelling_file_and_measured_with_it(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = main("run", tiny_folder, "--preset", "streamline-ffn", "--remove", "2", "--text", text_file, "--out", out,
                "--recipe", recipe(tmp_path), *QUICK)  # fmt: skip
    assert done[0] == 0
    status, _, errors = main("measure", out)
    assert status == 2
    assert "--trust-remote-code" in errors
    status, printed, errors = main("measure", out, "--trust-remote-code", "--json", "--quiet")
    assert status == 0, errors
    assert json.loads(printed)["layers"] == 4


def test_the_same_recipe_gives_the_same_plan_and_the_same_weights(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        status, _, errors = main("run", tiny_folder, "--preset", "streamline", "--remove", "2", "--text", text_file,
                                 "--out", out, "--recipe", recipe(tmp_path), *QUICK)  # fmt: skip
        assert status == 0, errors
    one, two = files(outs[0]), files(outs[1])
    for name in ("lowrise/plan.json", "model.safetensors", "config.json", "lowrise/training.json"):
        assert one[name] == two[name], name


def test_plan_then_apply_equals_run(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    common = ["--text", text_file, "--quiet"]
    chosen = ["--preset", "streamline", "--remove", "2", "--samples", "10", "--length", "32"]
    with_recipe = ["--recipe", recipe(tmp_path)]
    assert main("run", tiny_folder, *common, *chosen, *with_recipe, "--out", tmp_path / "run")[0] == 0
    status, _, errors = main("plan", tiny_folder, *common, *chosen, *with_recipe, "--out", tmp_path / "plan.json")
    assert status == 0, errors
    planned, ran = (json.loads((tmp_path / file).read_text()) for file in ("plan.json", "run/lowrise/plan.json"))
    before, after = planned["scores"].pop("held_out"), ran["scores"].pop("held_out")
    assert planned == ran
    # what training leads to is known once it is done
    assert before["after"] is None
    assert after["after"] > 0
    assert before["dense"] == after["dense"]
    status, _, errors = main("apply", tiny_folder, tmp_path / "plan.json", *common, "--out", tmp_path / "apply")
    assert status == 0, errors
    assert "warning" not in errors
    assert (tmp_path / "apply/lowrise/plan.json").read_bytes() == (tmp_path / "run/lowrise/plan.json").read_bytes()
    weights = "model.safetensors"
    assert (tmp_path / "apply" / weights).read_bytes() == (tmp_path / "run" / weights).read_bytes()


def test_a_dropped_span_needs_no_tokens_to_be_applied(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    chosen = ["--preset", "streamline-none", "--remove", "25%", "--text", text_file]
    assert main("plan", tiny_folder, *chosen, "--out", plan, *QUICK)[0] == 0
    status, _, errors = main("apply", tiny_folder, plan, "--out", tmp_path / "out", "--quiet")
    assert status == 0, errors
    start, stop = (json.loads(plan.read_text())["edits"][0][key] for key in ("start", "stop"))
    assert stop - start == 2  # 25% of 6 layers, to the nearest
    dense, cut = loaded(tiny_folder), loaded(tmp_path / "out")
    kept = [*range(start), *range(stop, tiny.LAYERS)]
    for index, original in enumerate(kept):
        ours, theirs = cut.model.layers[index].state_dict(), dense.model.layers[original].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_text_for_apply_is_refused(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.txt"
    other.write_text(tiny.text(seed=9))
    main("plan", tiny_folder, "--remove", "2", "--text", text_file, "--out", plan, *QUICK, "--recipe", recipe(tmp_path))
    status, _, errors = main("apply", tiny_folder, plan, "--text", other, "--out", tmp_path / "out", "--quiet")
    assert status == 2
    assert f"--text {other}: expected a text that {plan} was made from (words.txt, sha256 " in errors
    assert not (tmp_path / "out").exists()


def test_without_text_the_model_writes_its_own(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, errors = main("run", tiny_folder, "--preset", "streamline-none", "--remove", "2", "--out", out,
                             "--samples", "4", "--length", "16")  # fmt: skip
    assert status == 0, errors
    assert "the model writes its own" in errors
    assert json.loads((out / "lowrise/plan.json").read_text())["calibration"]["source"] == "written by the model"


def test_measure_agrees_with_what_run_measured(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "results.json"
    chosen = ["--preset", "streamline-none", "--remove", "2", "--text", text_file]
    main("run", tiny_folder, *chosen, "--eval-text", text_file, "--windows", "5", "--out", out, *QUICK)
    status, _, errors = main("measure", out, "--dense", tiny_folder, "--eval-text", text_file, "--length", "32",
                             "--windows", "5", "--out", results, "--quiet")  # fmt: skip
    assert status == 0, errors
    measured, ran = json.loads(results.read_text()), json.loads((out / "lowrise/results.json").read_text())
    for key in ("layers", "parameters", "perplexity", "dense", "retained"):
        assert measured[key] == ran[key]
    assert measured["perplexity"]["words.txt"].keys() >= {"value", "tokens", "windows", "length"}


def test_a_bfloat16_checkpoint_stays_one(main: Main, text_file: Path, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", dtype=torch.bfloat16)
    status, _, errors = main("run", folder, "--preset", "streamline", "--remove", "2", "--text", text_file, "--out",
                             tmp_path / "out", "--recipe", recipe(tmp_path), *QUICK)  # fmt: skip
    assert status == 0, errors
    assert loaded(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_the_training_curve_is_data_and_a_picture(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    main("run", tiny_folder, "--preset", "streamline", "--remove", "2", "--text", text_file, "--out",
         tmp_path / "out", *QUICK, "--recipe", recipe(tmp_path))  # fmt: skip
    side = tmp_path / "out/lowrise"
    curve = json.loads((side / "training.json").read_text())
    assert len(curve["train"]) == curve["steps"]
    assert curve["validation"][0][0] == 0
    assert curve["validation"][-1][0] == curve["steps"]
    assert ElementTree.parse(side / "training.svg").getroot().tag.endswith("svg")


def test_a_span_that_writes_massive_activations_is_said_and_avoided(
    main: Main, text_file: Path, tmp_path: Path
) -> None:
    """Layer 2 is made to write a norm of thousands at token 5; all others are made to do next to nothing."""
    model = tiny.model()
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.mul_(1e-3)
            layer.self_attn.o_proj.weight.mul_(1e-3 if index != 2 else 1)
        model.model.embed_tokens.weight[5] *= 1e-6  # next to nothing, so that the norm in front of the MLP blows it up
        mlp = model.model.layers[2].mlp
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        mlp.gate_proj.weight.zero_()
        mlp.up_proj.weight.zero_()
    folder = tmp_path / "model"
    direction = model.model.embed_tokens.weight[7] / model.model.embed_tokens.weight[7].norm()
    with torch.no_grad():
        mlp.gate_proj.weight[0] = direction * 10
        mlp.up_proj.weight[0] = direction * 10
        mlp.down_proj.weight[:, 0] = 3.0
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    plan = tmp_path / "plan.json"
    done = main(
        "plan", folder, "--preset", "streamline-none", "--remove", "5", "--text", text_file, "--out", plan, *QUICK
    )
    assert done[0] == 0, done[2]
    scores = json.loads(plan.read_text())["scores"]
    assert 2 in scores["massive_activations"]["writers"]
    assert "writes massive activations" in done[2]
    chosen = ["--preset", "streamline-none", "--text", text_file, "--avoid-massive", *QUICK]
    refused = main("plan", folder, *chosen, "--remove", "5", "--out", tmp_path / "other.json")
    assert refused[0] == 2
    assert "--avoid-massive" in refused[2]
    done = main("plan", folder, "--preset", "angular", "--remove", "5", "--text", text_file, "--out",
                tmp_path / "angular.json", *QUICK)  # fmt: skip
    assert done[0] == 0, done[2]
    assert "chosen by angular, hold layer 2, which writes massive activations" in done[2]
    refused = main("plan", folder, "--preset", "angular", "--avoid-massive", "--remove", "5", "--text", text_file,
                   "--out", tmp_path / "other.json", *QUICK)  # fmt: skip
    assert refused[0] == 2
    assert "--avoid-massive: expected a span of 5 layers without one that writes massive" in refused[2]
    status, _, errors = main("plan", folder, "--preset", "streamline-none", "--remove", "2", "--text", text_file,
                             "--avoid-massive", "--out", tmp_path / "free.json", *QUICK)  # fmt: skip
    assert status == 0, errors
    edit = json.loads((tmp_path / "free.json").read_text())["edits"][0]
    assert not edit["start"] <= 2 < edit["stop"]


def test_force_replaces_the_old_output(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("run", tiny_folder, "--preset", "streamline-none", "--remove", "2", "--text", text_file, "--out", out)
    assert main(*command, *QUICK)[0] == 0
    (out / "old.txt").write_text("old")
    status, _, errors = main(*command, "--force", *QUICK)
    assert status == 0, errors
    assert not (out / "old.txt").exists()
    assert (out / "model.safetensors").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_model_card_names_the_method_and_carries_the_table(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    main("run", tiny_folder, "--preset", "streamline-none", "--remove", "2", "--text", text_file, "--out",
         tmp_path / "out", *QUICK)  # fmt: skip
    card = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-generation"
    assert "| layers | 6 | 4 |" in card
    assert "2403.19135" in card


def test_quiet_prints_nothing_but_the_result_and_json_is_all_of_stdout(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    status, printed, errors = main("run", tiny_folder, "--preset", "streamline-none", "--remove", "2", "--text",
                                   text_file, "--out", tmp_path / "out", "--json", *QUICK)  # fmt: skip
    assert (status, errors) == (0, "")
    assert json.loads(printed)["model"] == str(tmp_path / "out")


def test_presets_lists_method_paper_and_whether_it_loads_plainly(main: Main) -> None:
    status, printed, _ = main("presets")
    assert status == 0
    for words in ("streamline-swiglu", "https://arxiv.org/abs/2403.19135", "loads plainly: no"):
        assert words in printed
    assert json.loads(main("presets", "--json")[1])["streamline"]["loads_plainly"] is True
