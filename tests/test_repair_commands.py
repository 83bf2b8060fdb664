"""Closed-form repairs through the commands: presets, every kind of cut, plans that are applied later, refusals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from lowrise.quality import SEARCHED, collapsed_on
from refusals import Main, assert_one_line

QUICK = ["--samples", "128", "--length", "32", "--device", "cpu", "--quiet"]


@pytest.fixture
def cut(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> Any:
    """Run with options into a new folder: (folder, results, plan)."""

    def run(*options: object, name: str = "out") -> tuple[Path, dict[str, Any], dict[str, Any]]:
        out = tmp_path / name
        arguments = ["run", tiny_folder, "--text", text_file, "--out", out, "--remove", "2", *QUICK, *options]
        status, _, errors = main(*arguments)
        assert (status, errors) == (0, "")
        results, plan = (json.loads((out / "lowrise" / f"{part}.json").read_text()) for part in ("results", "plan"))
        return out, results, plan

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("refit", "refit"), ("refit-span", "refit"), ("replaceme", "fold"), ("replaceme-cosine", "fold")],
)
def test_a_preset_repairs_what_it_drops_and_loads_plainly(cut: Any, tiny_folder: Path, preset: str, kind: str) -> None:
    out, results, plan = cut("--preset", preset)
    assert {edit["kind"] for edit in plan["edits"]} == {kind}
    assert results["layers"] == plan["layers_after"] == tiny.LAYERS - 2
    changed = {layer for layer, _ in changed_matrices(tiny_folder, out, plan)}
    before_gaps = {edit["start"] - 1 for edit in plan["edits"]}
    assert changed <= ({*range(min(before_gaps), tiny.LAYERS)} if kind == "refit" else before_gaps)
    page, card = ((out / name).read_text(encoding="utf-8") for name in ("lowrise/report.html", "README.md"))
    lowest = min(before_gaps)
    says = {
        "refit": f"Ridge regressions refit the matrices of the layers that are left from {lowest} on, in closed form.",
        "fold": f"A linear map folded into the MLP output matrix of layer {lowest}, in closed form.",
    }
    assert (page.count(says[kind]), card.count(says[kind])) == (1, 1)
    assert {repair["layer"] for repair in results["repairs"]} >= before_gaps
    taken = [f"{one['neurons']} into layer {one['layer']}" for one in results["repairs"] if one["neurons"]]
    assert bool(taken) == (kind == "refit")
    descended = [str(one["layer"]) for one in results["repairs"] if one["descended"]]
    assert {*map(int, descended)} == (before_gaps if kind == "refit" else set())
    for text in (page, card):
        each = " toward" if len(descended) == 1 else ", each toward"
        assert (", ".join(descended) + each in text) == bool(descended)
        assert ("MLP neurons transplanted from removed layers: " + ", ".join(taken) in text) == bool(taken)


def test_a_run_says_what_every_layer_before_a_gap_made_of_it(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    quick = [option for option in QUICK if option != "--quiet"]
    arguments = ["run", tiny_folder, "--text", text_file, "--repair", "refit", "--remove", "2"]
    status, _, errors = main(*arguments, "--preset", "block-influence", *quick, "--out", tmp_path / "out")
    assert status == 0
    plan = json.loads((tmp_path / "out" / "lowrise" / "plan.json").read_text())
    gaps = [(edit["start"] - 1, edit["stop"]) for edit in plan["edits"] if edit["start"] > 0]
    told = re.findall(
        r"layer (\d+): held-out reconstruction error × 0\.\d+ \(target: (?:input of|output of the last) layer ?(\d*)\)"
        r"(?:, λ [\d.e-]+)?"
        r"(?:, \d+ neurons transplanted from removed layers)?(?:, then block reconstruction)?$",
        errors,
        re.MULTILINE,
    )
    assert [(int(layer), int(stop or tiny.LAYERS)) for layer, stop in told] == gaps


def changed_matrices(model: Path, out: Path, plan: dict[str, Any]) -> set[tuple[int, str]]:
    """(layer of the dense model, name in it)."""
    dense, after = weights(model), weights(out)
    kept = [layer for layer in range(tiny.LAYERS) if not _dropped(plan, layer)]
    return {
        (old, name)
        for new, old in enumerate(kept)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
        if not torch.equal(after[f"model.layers.{new}.{name}.weight"], dense[f"model.layers.{old}.{name}.weight"])
    }


def _dropped(plan: dict[str, Any], layer: int) -> bool:
    return any(edit["start"] <= layer < edit["stop"] for edit in plan["edits"])


@pytest.mark.parametrize("repair", ["fold", "refit"])
@pytest.mark.parametrize(
    "options",
    [
        ["--preset", "streamline-none"],
        pytest.param(["--preset", "block-influence"], marks=pytest.mark.slow),
        pytest.param(["--preset", "streamline"], marks=pytest.mark.slow),
        pytest.param(["--preset", "streamline-ffn"], marks=pytest.mark.slow),
        pytest.param(["--preset", "streamline-swiglu", "--form", "portable"], marks=pytest.mark.slow),
        ["--preset", "laco-mean"],
    ],
    ids=lambda options: "-".join(options[1::2]),
)
def test_a_repair_follows_every_kind_of_cut(cut: Any, tmp_path: Path, options: list[str], repair: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 1}\n")
    plain, _, _ = cut(*options, "--recipe", recipe, name="plain")
    repaired, _, plan = cut(*options, "--recipe", recipe, "--repair", repair, name="repaired")
    (edit, *_) = plan["edits"]
    assert repair in (edit["kind"], edit.get("repair"))
    files = [(folder / "model.safetensors").read_bytes() for folder in (plain, repaired)]
    assert files[0] != files[1]


def test_a_plan_of_repairs_is_applied_to_the_same_weights(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    first, _, _ = cut("--preset", "refit")
    again = tmp_path / "again"
    plan = first / "lowrise" / "plan.json"
    status, _, errors = main(
        "apply", tiny_folder, plan, "--text", text_file, "--out", again, "--device", "cpu", "--quiet"
    )
    assert (status, errors) == (0, "")
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_every_plan_records_the_held_out_loss(cut: Any) -> None:
    for preset in ("refit", "streamline-none", "random"):
        _, _, plan = cut("--preset", preset, name=preset)
        held_out = plan["scores"]["held_out"]
        assert held_out["tokens"] == 32 * 13  # a tenth of 128 windows
        assert held_out["perplexity_ratio"] == pytest.approx(math.exp(held_out["after"] - held_out["dense"]))
        assert held_out["collapsed"] is False


def test_merges_are_judged_as_they_are_repaired_not_as_the_search_saw_them(cut: Any) -> None:
    _, _, plan = cut("--preset", "laco-mean", "--repair", "refit")
    scores = plan["scores"]
    assert scores["held_out"]["tokens"] == 32 * 13  # of the windows that the repair was fitted on
    assert scores["held_out"]["after"] is not None
    lost = {**scores, "loss": {**scores["loss"], "perplexity_ratio": 1e6}}
    assert collapsed_on({}, lost, healed=False) is None
    del lost["held_out"]
    assert collapsed_on({}, lost, healed=False) == (SEARCHED, 1e6)


def test_a_plan_of_what_is_not_done_yet_has_no_loss_after_it(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    arguments = ["--preset", "replaceme", "--remove", "2", "--text", text_file, *QUICK, "--out", file]
    assert main("plan", tiny_folder, *arguments)[0] == 0
    held_out = json.loads(file.read_text())["scores"]["held_out"]
    assert held_out["after"] is None
    assert held_out["perplexity_ratio"] is None


def apply_edited(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path, edits: list[dict[str, Any]]
) -> tuple[int, str, str]:
    """A plan whose edits a user has changed by hand."""
    _, _, plan = cut("--preset", "streamline-none", name="planned")
    file = tmp_path / "edited.json"
    file.write_text(json.dumps({**plan, "edits": edits}))
    return main("apply", tiny_folder, file, "--text", text_file, "--out", tmp_path / "o", "--device", "cpu", "--quiet")


def test_a_gap_with_no_layer_before_it_is_said_to_be_dropped_only(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    edits = [{"kind": "fold", "start": 0, "stop": 2}]
    status, _, errors = apply_edited(main, cut, tiny_folder, text_file, tmp_path, edits)
    assert status == 0
    assert "no layer stands before the gap [0, 2): it is dropped, not repaired" in errors


def test_a_network_beside_repaired_drops_is_refused(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    edits = [{"kind": "refit", "start": 1, "stop": 2}, {"kind": "replace", "network": "layer", "start": 3, "stop": 5}]
    said = apply_edited(main, cut, tiny_folder, text_file, tmp_path, edits)
    assert_one_line(*said, ("repair no drop or merge beside it",))


def test_the_default_preset_is_refit(cut: Any) -> None:
    _, _, plan = cut()
    assert plan["preset"] == "refit"
    assert {edit["kind"] for edit in plan["edits"]} == {"refit"}


def test_merges_of_a_plan_to_be_repaired_are_applied_as_a_run_does(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    options = ["--preset", "laco-mean", "--remove", "2", "--repair", "refit", "--text", text_file, *QUICK]
    plan = tmp_path / "plan.json"
    assert main("plan", tiny_folder, *options, "--out", plan)[0] == 0
    held_out = json.loads(plan.read_text())["scores"]["held_out"]
    assert held_out["dense"] > 0
    assert held_out["after"] is None
    out = tmp_path / "applied"
    arguments = [tiny_folder, plan, "--text", text_file, "--out", out, "--device", "cpu", "--quiet"]
    status, _, errors = main("apply", *arguments)
    assert (status, errors) == (0, "")
    run, _, _ = cut("--preset", "laco-mean", "--repair", "refit")
    assert (run / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_two_repairs_in_one_plan_are_refused(
    main: Main, cut: Any, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    edits = [{"kind": "fold", "start": 1, "stop": 2}, {"kind": "refit", "start": 4, "stop": 5}]
    said = apply_edited(main, cut, tiny_folder, text_file, tmp_path, edits)
    assert_one_line(*said, ("drops and merges are repaired in one way, all of them or none",))


@pytest.mark.parametrize("family", ["olmo2", pytest.param("gemma3_text", marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [True, False])
def test_what_a_norm_stands_behind_is_refit_and_where_it_is_unknown_in_what_it_reads_alone(
    main: Main, text_file: Path, tmp_path: Path, family: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr("lowrise.model.refittable.norms_as_known", lambda _decoder: False)
    model = tiny.save(tmp_path / "model", family)
    arguments = ["--preset", "random", "--seed", "1", "--repair", "refit", "--remove", "2", "--text", text_file, *QUICK]
    status, _, errors = main("run", model, *arguments, "--out", tmp_path / "out")
    assert (status, errors) == (0, "")
    plan = json.loads((tmp_path / "out" / "lowrise" / "plan.json").read_text())
    changed = changed_matrices(model, tmp_path / "out", plan)
    results = json.loads((tmp_path / "out" / "lowrise" / "results.json").read_text())
    assert {one["written"] for one in results["repairs"]} == {known}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    said = "the matrices of the layers" if known else "the matrices that read the stream, in the layers"
    assert f"{said} that are left from {results['repairs'][0]['layer']} on" in card
    writes = {"self_attn.o_proj", "mlp.down_proj"}
    gaps = {edit["start"] - 1 for edit in plan["edits"]}
    assert writes & {name for layer, name in changed if layer not in gaps} == (writes if known else set())


@pytest.mark.parametrize("family", ["olmo2", pytest.param("gemma3_text", marks=pytest.mark.slow)])
def test_a_network_of_the_papers_form_has_a_last_matrix_of_its_own(
    main: Main, text_file: Path, tmp_path: Path, family: str
) -> None:
    model = tiny.save(tmp_path / "model", family)
    arguments = ["--preset", "streamline-ffn", "--repair", "refit", "--remove", "2", "--text", text_file, *QUICK]
    status, _, errors = main("run", model, *arguments, "--out", tmp_path / "out")
    assert (status, errors) == (0, "")


@pytest.mark.parametrize("options", [["--preset", "replaceme"], ["--preset", "tail", "--repair", "fold"]])
def test_a_family_that_no_closed_form_folds_is_refused(
    main: Main, text_file: Path, tmp_path: Path, options: list[str]
) -> None:
    model = tiny.save(tmp_path / "olmo", "olmo2")
    arguments = ["run", model, "--text", text_file, "--remove", "2", "--out", tmp_path / "out", *QUICK, *options]
    status, out, err = main(*arguments)
    says = ("repair of family olmo2", "a norm (post_feedforward_layernorm)", "choose a preset that repairs nothing")
    assert_one_line(status, out, err, says)
    assert not (tmp_path / "out").exists()


def test_layers_do_not_hang_on_a_text_beside_enough_that_the_model_wrote(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two texts the calibration differs, and what the search found does not: it looked at neither."""
    monkeypatch.setattr("lowrise.select.refit_search.FIT_TOKENS", 8 * 32)
    monkeypatch.setattr("lowrise.select.refit_search.HELD_OUT_TOKENS", 32)
    words = text_file.read_text(encoding="utf-8").split()
    other = tmp_path / "other.txt"
    other.write_text(" ".join(reversed(words)), encoding="utf-8")
    plans = []
    for text in (text_file, other):
        options = ["--text", text, "--written", "0.5", "--remove", "2", "--out", tmp_path / f"{text.stem}.json", *QUICK]
        assert main("plan", tiny_folder, *options)[0] == 0
        plans.append(json.loads((tmp_path / f"{text.stem}.json").read_text()))
    one, another = plans
    assert one["calibration"]["sha256"] != another["calibration"]["sha256"]
    assert one["scores"]["rounds"] == another["scores"]["rounds"]


@pytest.mark.parametrize(("options", "fitted", "measured"), [([], 512, 640), (["--length", "256"], 256, 256)])
def test_refit_calibrates_on_shorter_windows_than_perplexity_has_by_default(
    main: Main, text_file: Path, tmp_path: Path, options: list[str], fitted: int, measured: int
) -> None:
    model = tiny.save(tmp_path / "model", max_position_embeddings=640)
    usual = ["--preset", "refit-span", "--remove", "2", "--samples", "4", *options]
    texts = ["--text", text_file, "--eval-text", text_file, "--windows", "2", "--device", "cpu", "--quiet"]
    status, _, errors = main("run", model, *usual, *texts, "--out", tmp_path / "out")
    assert (status, errors) == (0, "")
    plan, ran = (
        json.loads((tmp_path / "out" / "lowrise" / f"{part}.json").read_text()) for part in ("plan", "results")
    )
    assert plan["calibration"]["length"] == fitted
    assert ran["perplexity"][text_file.name]["length"] == measured


def test_apply_makes_and_measures_what_run_does(main: Main, text_file: Path, tmp_path: Path) -> None:
    model = tiny.save(tmp_path / "model", max_position_embeddings=640)
    usual = ["--preset", "refit-span", "--remove", "2", "--samples", "4", "--text", text_file]
    evaluated = ["--text", text_file, "--eval-text", text_file, "--windows", "2"]
    here = ["--device", "cpu", "--quiet"]
    assert main("run", model, *usual, *evaluated[2:], *here, "--out", tmp_path / "ran")[0] == 0
    assert main("plan", model, *usual, *here, "--out", tmp_path / "plan.json")[0] == 0
    assert main("apply", model, tmp_path / "plan.json", *evaluated, *here, "--out", tmp_path / "applied")[2] == ""
    ran, applied = (
        json.loads((tmp_path / name / "lowrise" / "results.json").read_text())["perplexity"]
        for name in ("ran", "applied")
    )
    assert applied == ran
