"""`--heal` in `run`, `apply` and `compare`, and `heal:` in recipes: the cut, then its healing, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import tiny
from lowrise.measure.speed import speed
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.results import Results, Speed
from refusals import Main, assert_one_line

CUT = ["--preset", "block-influence", "--remove", 2, "--samples", 4, "--length", 32]
COMMON = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("guards") / "guard.txt"
    file.write_text(tiny.text(800, seed=5), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def as_deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of as many layers as a cut leaves."""
    return tiny.save(tmp_path_factory.mktemp("models") / "shallow", num_hidden_layers=4)


@pytest.fixture
def recipe(tmp_path: Path, guard: Path) -> Path:
    """Healing that is quick, and keeps what it makes: words are nothing that a random model knows, so by `ce`."""
    file = tmp_path / "recipe.yaml"
    heal = {"tokens": "2k", "length": 32, "objective": "ce", "learning_rate": 0.003, "guard": str(guard)}
    file.write_text(yaml.safe_dump({"heal": heal}), encoding="utf-8")
    return file


def test_what_is_asked_of_an_output_is_asked_of_the_healed_one(
    main: Main, tiny_folder: Path, text_file: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its speed, once, and with --strict whether it has collapsed, which its cut may have."""
    recipe.write_text(recipe.read_text() + "speed: true\nstrict: true\n", encoding="utf-8")
    timed, judged = [], []

    def seen(decoder: Decoder, dense: Decoder | None, progress: Reporter) -> Speed:
        timed.append((len(decoder), 0 if dense is None else len(dense)))
        return speed(decoder, dense, progress)

    monkeypatch.setattr("lowrise.pipeline.measuring.speed", seen)
    monkeypatch.setattr("lowrise.pipeline.healed_output.refuse_collapse", lambda results, _: judged.append(results))
    monkeypatch.setattr("lowrise.pipeline.building.refuse_collapse", lambda *_: pytest.fail("its cut was judged"))
    how = ["--preset", "laco-mean", *CUT[2:]]
    said = main("run", tiny_folder, *how, "--text", text_file, "--recipe", recipe, "--out", tmp_path / "out", *COMMON)
    assert said[0] == 0, said[2]
    assert timed == [(tiny.LAYERS - 2, tiny.LAYERS)]
    (results,) = judged
    assert results.layers == tiny.LAYERS - 2
    assert json.loads((tmp_path / "out/lowrise/results.json").read_text())["speed"]["ratio"]


def test_run_heals_what_it_cut(
    main: Main, tiny_folder: Path, text_file: Path, recipe: Path, guard: Path, tmp_path: Path
) -> None:
    """The same weights as of `run`, and `heal` of what it wrote; how it was cut and repaired is not forgotten."""
    text = ["--text", text_file]
    out, cut, apart = (tmp_path / name for name in ("out", "cut", "apart"))
    status, printed, errors = main(
        "run", tiny_folder, *CUT, *text, "--repair", "refit", "--recipe", recipe, "--out", out, *COMMON, "--json"
    )
    assert status == 0, errors
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    assert main("run", tiny_folder, *CUT, *text, "--repair", "refit", "--out", cut, *COMMON)[0] == 0
    how = ["--tokens", "2k", "--length", 32, "--objective", "ce", "--learning-rate", 0.003, "--guard", guard]
    assert main("heal", cut, "--dense", tiny_folder, *text, *how, "--out", apart, *COMMON)[0] == 0
    weights, others = (load_file(folder / "model.safetensors") for folder in (out, apart))
    assert weights.keys() == others.keys()
    assert all(bool((weights[name] == others[name]).all()) for name in weights)
    results = Results.model_validate(json.loads(printed))
    assert results.command == "run"
    assert results.healing is not None
    assert results.healing.kept > 0
    assert "perplexity before healing" in (out / "lowrise/report.html").read_text()
    assert results.repairs == Results.model_validate(json.loads((cut / "lowrise/results.json").read_text())).repairs
    assert {"repair", "healing"} <= results.seconds.keys()
    assert (out / "lowrise/observation.json").read_bytes() == (cut / "lowrise/observation.json").read_bytes()
    said = yaml.safe_load((out / "lowrise/recipe.yaml").read_text())
    assert (said["model"], said["heal"]["tokens"]) == (str(tiny_folder), "2k")


@pytest.mark.parametrize(("preset", "trained"), [("streamline-ffn", "network"), ("ghosted", "gaps")])
def test_what_stands_outside_of_the_layers_is_healed_too(
    main: Main, tiny_folder: Path, text_file: Path, guard: Path, tmp_path: Path, preset: str, trained: str
) -> None:
    """Networks and maps in their published form: the checkpoint brings its modelling file again."""
    recipe, cut, out, apart = (tmp_path / name for name in ("recipe.yaml", "cut", "out", "apart"))
    heal = {"tokens": "2k", "length": 32, "objective": "ce", "learning_rate": 0.01, "guard": str(guard)}
    recipe.write_text(yaml.safe_dump({"heal": {**heal, "train": trained}, "training": {"epochs": 1}}), encoding="utf-8")
    how = ["--preset", preset, *CUT[2:], "--text", text_file]
    said = main("run", tiny_folder, *how, "--recipe", recipe, "--out", out, *COMMON)
    assert said[0] == 0, said[2]
    recipe.write_text("training: {epochs: 1}\n", encoding="utf-8")
    said = main("run", tiny_folder, *how, "--recipe", recipe, "--out", cut, *COMMON)
    assert said[0] == 0, said[2]
    before, after = (load_file(folder / "model.safetensors") for folder in (cut, out))
    changed = {name for name in before if not bool((before[name] == after[name]).all())}
    assert any(name.startswith("span_network") for name in changed)
    if trained == "network":
        assert all(name.startswith("span_network") for name in changed)
    assert (out / "lowrise_networks.py").read_bytes() == (cut / "lowrise_networks.py").read_bytes()
    assert (out / "modeling_lowrise.py").read_text() == (cut / "modeling_lowrise.py").read_text()
    assert json.loads((out / "config.json").read_text()) == json.loads((cut / "config.json").read_text())
    assert yaml.safe_load((out / "lowrise/recipe.yaml").read_text())["trust_remote_code"] is False
    given = ["--tokens", "2k", "--length", 32, "--objective", "ce", "--learning-rate", 0.01, "--guard", guard]
    given += ["--train", trained, "--text", text_file, "--out", apart, *COMMON]
    said = main("heal", cut, "--dense", tiny_folder, *given)
    assert_one_line(*said, ("trust-remote-code",))
    said = main("heal", cut, "--dense", tiny_folder, *given, "--trust-remote-code")
    assert said[0] == 0, said[2]
    assert (apart / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_plan_is_applied_and_healed(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    assert main("plan", tiny_folder, *CUT, "--text", text_file, "--out", plan, *COMMON)[0] == 0
    status, printed, errors = main(
        "apply", tiny_folder, plan, "--text", text_file, "--heal", "1k", "--out", out, *COMMON, "--json"
    )
    assert status == 0, errors
    results = Results.model_validate(json.loads(printed))
    assert results.command == "apply"
    assert results.healing is not None
    assert results.healing.tokens <= 1000


def test_what_was_cut_before_it_was_stopped_is_not_cut_again(
    main: Main, tiny_folder: Path, text_file: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["run", tiny_folder, *CUT, "--text", text_file, "--recipe", recipe, "--out", out, "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("lowrise.pipeline.healing_steps.train", _stopped)
        status, _, _ = main(*command)
    assert status == 130
    assert not out.exists()
    (kept,) = tmp_path.glob(".out.*.cut")
    other = kept.with_name(".out.0123abcd.cut")
    other.mkdir()
    status, _, errors = main(*command)
    assert status == 0, errors
    assert f"the cut model is kept from before in {kept}" in errors
    assert f"were not healed, and stay: {other}" in errors
    assert not kept.exists()
    assert other.exists()


def _stopped(*_: object) -> None:
    raise SystemExit(130)


@pytest.mark.slow
def test_every_row_of_a_comparison_is_healed(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "out"
    rows = ["--presets", "tail,laco-mean", "--remove", 2, "--samples", 4, "--length", 32]
    status, printed, errors = main(
        "compare", tiny_folder, *rows, "--text", text_file, "--heal", "1k", "--out", out, "--device", "cpu", "--json"
    )
    assert status == 0, errors
    rows = json.loads(printed)["rows"]
    assert [row["seconds_by_stage"]["healing"] > 0 for row in rows] == [True, True]
    assert all(row["seconds_to_compress"] > row["seconds_by_stage"]["healing"] for row in rows)
    assert all(0 <= row["numbers"]["healed"][""]["value"] <= 1000 for row in rows)
    assert "| tokens healed on |" in (out / "compare.md").read_text(encoding="utf-8")
    # one dense model and the same tokens: it is asked in the first row, and the second writes nothing new
    (folder,) = (cache / "targets").iterdir()
    logs = [(out / "rows" / name / "log.txt").read_text(encoding="utf-8") for name in ("tail-2", "laco-mean-2")]
    assert f"in {folder}" in logs[0]
    assert "kept from before" not in _about_targets(logs[0])
    assert "kept from before" in _about_targets(logs[1])


def _about_targets(log: str) -> str:
    return next(line for line in log.splitlines() if line.startswith("what the dense model says of the tokens"))


def test_streamline_llm_is_streamline_but_for_the_layer_that_was_put_back(
    main: Main, tiny_folder: Path, text_file: Path, guard: Path, tmp_path: Path
) -> None:
    """LLM-Streamline's LLM loss: only what was put back is trained, and the rest of the model stays the same bits."""
    common = ["--remove", 2, "--samples", 8, "--length", 32, "--text", text_file, *COMMON]
    recipe = tmp_path / "recipe.yaml"
    heal = {"tokens": "2k", "length": 32, "learning_rate": 0.003, "guard": str(guard)}
    recipe.write_text(yaml.safe_dump({"training": {"epochs": 1}, "heal": heal}), encoding="utf-8")
    epochs = tmp_path / "epochs.yaml"
    epochs.write_text("training: {epochs: 1}\n", encoding="utf-8")
    mse, llm = tmp_path / "mse", tmp_path / "llm"
    assert main("run", tiny_folder, "--preset", "streamline", *common, "--recipe", epochs, "--out", mse)[0] == 0
    how = ["--preset", "streamline-llm", *common, "--recipe", recipe, "--json"]
    status, printed, errors = main("run", tiny_folder, *how, "--out", llm)
    assert status == 0, errors
    healing = Results.model_validate(json.loads(printed)).healing
    assert healing is not None
    assert (healing.objective, healing.trained, healing.teacher) == ("ce", "network", None)
    assert healing.kept > 0
    (edit,) = json.loads((llm / "lowrise/plan.json").read_text())["edits"]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (llm, mse))
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not bool((ours[name] == theirs[name]).all())}
    layer = f"model.layers.{edit['start']}."
    assert changed == {name for name in ours if name.startswith(layer)}


def test_a_budget_on_the_command_line_leaves_a_preset_its_other_settings_of_healing() -> None:
    own = build_recipe({"preset": "streamline-llm"}).heal
    more = build_recipe({"preset": "streamline-llm", "heal": "20M"}).heal
    assert own is not None
    assert more == own.model_copy(update={"tokens": "20M"})
    assert build_recipe({"preset": "streamline-llm", "heal": None}).heal is None


@pytest.mark.parametrize("budget", ["0", "many"])
def test_a_budget_that_is_none(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, budget: str) -> None:
    said = main("run", tiny_folder, *CUT, "--text", text_file, "--heal", budget, "--out", tmp_path / "out", *COMMON)
    assert_one_line(*said, ("--heal", "100k", budget))


def test_a_guard_that_is_not_there_is_refused_before_the_cut(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("heal: {tokens: 1k, guard: nowhere.txt}\n", encoding="utf-8")
    out = tmp_path / "out"
    said = main("run", tiny_folder, *CUT, "--text", text_file, "--recipe", recipe, "--out", out, *COMMON)
    assert_one_line(*said, ("--guard nowhere.txt", "a file", "nothing"))
    assert [*tmp_path.glob(".out*")] == []


@pytest.mark.parametrize(
    ("how", "heal", "says"),
    [
        (CUT, "{tokens: 10}", ("one window at least", "10")),
        (CUT, "{tokens: 50M}", ("text for 50,000,000 tokens", "heal.repeat")),
        (CUT, "{tokens: 1k, guard: TEXT}", ("--guard", "not trained on")),
        (CUT, "{tokens: 1k, chat: [TEXT]}", ("--chat", "chat template")),
        (CUT, "{tokens: 1k, dense: SHALLOW}", ("heal.dense", "more layers than the 4 that are left", "4")),
        (CUT, "{tokens: 1k, precision: fp16}", ("heal.precision", "bf16")),
        ([*CUT, "--dataset", "x.jsonl"], "{tokens: 1k}", ("--text and --dataset", "both")),
        (CUT, "{tokens: 1k, train: network}", ("heal.train: network", "block-influence, which puts nothing back")),
    ],
)
def test_what_healing_would_refuse_is_refused_before_the_cut(
    main: Main,
    tiny_folder: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: list[object],
    heal: str,
    says: tuple[str, ...],
    as_deep: Path,
) -> None:
    for computing in ("windows_or_sentences", "measure_model", "plan_edits"):
        monkeypatch.setattr(f"lowrise.pipeline.{computing}", lambda *_: pytest.fail("it was cut"))
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    heal = heal.replace("TEXT", str(text_file)).replace("SHALLOW", str(as_deep))
    recipe.write_text(f"heal: {heal}\n", encoding="utf-8")
    said = main("run", tiny_folder, *how, "--text", text_file, "--recipe", recipe, "--out", out, *COMMON)
    assert_one_line(*said, says)
    assert [*tmp_path.iterdir()] == [recipe]


def test_a_comparison_whose_rows_could_not_be_healed_is_refused_before_any(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = ["--presets", "tail,ghosted", "--remove", 2, "--samples", 4, "--length", 32]
    said = main("compare", tiny_folder, *rows, "--text", text_file, "--heal", "50M", "--out", out, *COMMON)
    assert_one_line(*said, ("text for 50,000,000 tokens", "heal.repeat"))
    assert [*tmp_path.iterdir()] == []


def test_a_cut_by_several_processes_is_refused(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    said = main("run", tiny_folder, *CUT, "--text", text_file, "--heal", "1k", "--out", tmp_path / "out", *COMMON)
    assert_one_line(*said, ("--heal", "one process", "accelerate launch -m lowrise heal"))


def test_a_recipe_may_say_the_tokens_alone() -> None:
    long, short = ({"model": "m", "heal": heal} for heal in ({"tokens": "2M"}, "2M"))
    assert build_recipe(long) == build_recipe(short)
    assert build_recipe({"model": "m", "heal": 4096}).heal == build_recipe({"model": "m", "heal": "4096"}).heal
