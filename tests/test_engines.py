"""What serving engines do with a folder: folders whose fate is known, and restrictions that agree with it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import transformers

from engine_folders import (
    COHERE2,
    EXAONE4,
    FOLDERS,
    GEMMA2,
    GEMMA3,
    LLAMA,
    OSS,
    QWEN3,
    SMOLLM3,
    kinds,
    make_folder,
    wrapped,
)
from lowrise.engines import ENGINES, check, restrictions
from lowrise.errors import ModelError, RecipeError
from lowrise.planned import settings_of
from lowrise.recipe import build_recipe, read_recipe
from lowrise.settings import ENGINES as NAMES
from refusals import Main, assert_one_line


def _fates(folder: Path) -> dict[str, str]:
    return {verdict.engine: verdict.fate for verdict in check(folder)}


RIGHT = dict.fromkeys(NAMES, "opens")


@pytest.mark.parametrize("name", FOLDERS)
def test_fate_of_a_folder(name: str, tmp_path: Path) -> None:
    config, layers, files, tokenizer, others = FOLDERS[name]
    folder = make_folder(tmp_path / "made", config, layers, *files, tokenizer=tokenizer)
    assert _fates(folder) == {**RIGHT, **others}


@pytest.mark.parametrize(
    ("tensor", "fate"),
    [("vision_tower.vision_model.embeddings.w", "opens"), ("model.vision_tower.embeddings.w", "wrong"), ("w", "opens")],
)
def test_a_tower_whose_weights_transformers_4_does_not_find(tensor: str, fate: str, tmp_path: Path) -> None:
    """Of Gemma-3 and LLaVA as published, and as transformers 5 names what it made itself."""
    text = {**GEMMA3, "layer_types": kinds(12, 6)}
    for name, family, inner in (("Gemma3", "gemma3", text), ("Llava", "llava", {**LLAMA, "model_type": "llama"})):
        folder = make_folder(tmp_path / family, wrapped(name, family, inner, 12), 12, tensor=tensor)
        assert _fates(folder)["transformers4"] == fate


def test_the_reason_names_the_first_layer_that_is_misread(tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["gemma3-2-8-9-14"]
    (verdict,) = check(make_folder(tmp_path / "made", config, layers), ["llama.cpp"])
    assert verdict.because == (
        "it takes every 6th layer for full attention, by its number: layer 4 is full attention and read as sliding "
        "attention, 5 of 14 layers in all",
    )


def test_a_window_is_a_limit_that_the_model_has_before_its_cut(tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["qwen3-mixed"]
    (verdict,) = check(make_folder(tmp_path / "made", config, layers), ["mlx"])
    assert verdict.fate == "opens"
    assert verdict.because == ("equal up to 64 tokens: no layer has a sliding window there",)


# whole models, with how a list follows a cut
_WHOLE = {
    "gemma3": ({**GEMMA3, "layer_types": kinds(9, 3)}, 9),
    "gemma2": ({**GEMMA2, "query_pre_attn_scalar": 128, "layer_types": kinds(8, 2)}, 8),
    "cohere2": ({**COHERE2, "layer_types": kinds(9, 4)}, 9),
    "gpt_oss": ({**OSS, "layer_types": kinds(8, 2)}, 8),
    "exaone4": ({**EXAONE4, "layer_types": kinds(8, 4)}, 8),
    "smollm3": ({**SMOLLM3, "no_rope_layers": [1, 1, 1, 0] * 2, "layer_types": ["full_attention"] * 8}, 8),
    "qwen3": ({**QWEN3, "use_sliding_window": True, "layer_types": kinds(8, 2)}, 8),
    "llama": (LLAMA, 6),
    "granite-4": ({"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
                   "layer_types": ["linear_attention", "full_attention"] * 4}, 8),
    "qwen3_next": ({"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "rope_theta": 1e6,
                    "layer_types": [kind.replace("sliding", "linear") for kind in kinds(9, 4)]}, 9),
    "llama4": ({"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text", "moe_layers": [1, 3, 5, 7],
                "interleave_moe_layer_step": 2,
                "layer_types": [kind.replace("sliding", "chunked") for kind in kinds(8, 4)]}, 8),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp", "mlx", "transformers4"])
@pytest.mark.parametrize("name", _WHOLE)
def test_restrictions_allow_the_cuts_that_are_read_right(name: str, engine: str, tmp_path: Path) -> None:
    """Of every cut of a small stack, and every engine."""
    config, layers = _WHOLE[name]
    whole = {**config, "num_hidden_layers": layers}
    if (engine, name) == ("mlx", "llama4"):
        with pytest.raises(RecipeError, match=r"llama4_text.*nothing is known there"):
            restrictions(whole, [engine])
        return
    found = restrictions(whole, [engine])
    folder = make_folder(tmp_path / "made", config, layers, "tokenizer.model")
    for kept in range(6, layers):
        for stay in combinations(range(layers), kept):
            cut = {
                key: [value[i] for i in stay] if isinstance(value, list) and len(value) == layers else value
                for key, value in config.items()
            }
            if "moe_layers" in config:
                cut["moe_layers"] = [new for new, old in enumerate(stay) if old in config["moe_layers"]]
            (folder / "config.json").write_text(json.dumps({**cut, "num_hidden_layers": kept}), encoding="utf-8")
            (verdict,) = check(folder, [engine])
            allowed = all(one.allows(stay) for one in found)
            assert allowed == (verdict.fate == "opens"), (stay, verdict)


def test_a_kind_that_an_engine_needs_is_not_cut_away(tmp_path: Path) -> None:
    """MLX looks for a layer of each kind of LFM2's. Of cuts that could take all of one, the first of it stays."""
    config = {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "rope_theta": 1e6}
    told = ["conv", "conv", "full_attention", "conv", "full_attention", "conv", "conv", "conv"]
    found = restrictions({**config, "layer_types": told, "num_hidden_layers": 8}, ["mlx"])
    assert [one.reason for one in found] == [
        "MLX needs a layer of full attention and one of conv: the first of each stays"
    ]
    folder = make_folder(tmp_path / "made", config, 8)
    for kept in range(4, 8):
        for stay in combinations(range(8), kept):
            cut = {**config, "layer_types": [told[layer] for layer in stay], "num_hidden_layers": kept}
            (folder / "config.json").write_text(json.dumps(cut), encoding="utf-8")
            (verdict,) = check(folder, ["mlx"])
            allowed = all(one.allows(stay) for one in found)
            assert allowed == (kept == 7 or {0, 2} <= {*stay})
            assert verdict.fate == "opens" or not allowed


def test_restrictions_of_the_text_of_a_multimodal_model() -> None:
    config, layers, *_ = FOLDERS["llama-4"]
    (kinds, experts) = restrictions({**config, "num_hidden_layers": layers}, ["llama.cpp"])
    assert kinds.reason == "llama.cpp takes every 4th layer for full attention, by its number"
    assert experts.allows([0, 1, 2, 3])
    assert kinds.allows([0, 1, 2, 3]) and not kinds.allows([0, 1, 2, 4])
    with pytest.raises(RecipeError, match=r"\(mistral3 around mistral4\), of which nothing is known"):
        restrictions(FOLDERS["mistral-3-around-4"][0] | {"architectures": None}, ["vllm"])


def test_restrictions_of_a_config_in_memory() -> None:
    """Which says no architecture."""
    import tiny

    (found,) = restrictions(tiny.config("gemma3_text"), ["llama.cpp", "vllm"])
    assert found.kinds == ("sliding_attention",) * 5 + ("full_attention",)
    assert found.reason == "llama.cpp takes every 6th layer for full attention, by its number"


def test_restrictions_of_a_depth() -> None:
    whole = {**GEMMA2, "layer_types": kinds(46, 2), "num_hidden_layers": 46}
    reasons = {one.reason: one for one in restrictions(whole, ["llama.cpp"])}
    scale = reasons["llama.cpp takes the scale of attention from the number of layers"]
    assert len(scale.patterns(46)) == 1
    assert not scale.patterns(44)


def test_restrictions_refuse_what_no_engine_is_known_for() -> None:
    with pytest.raises(RecipeError, match="--for vllm: expected a model that vLLM reads, found NewForCausalLM"):
        restrictions({"architectures": ["NewForCausalLM"], "model_type": "new", "num_hidden_layers": 4}, ["vllm"])
    with pytest.raises(RecipeError, match="which it refuses"):
        restrictions({"architectures": ["OPTForCausalLM"], "model_type": "opt", "num_hidden_layers": 4}, ["mlx"])


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        ({**GEMMA3, "layer_types": ["full_attention"]}, "14 entries of layer_types"),
        ({**LLAMA, "num_hidden_layers": "many"}, "the number of decoder layers"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(config: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "made", {}, 14)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 14, **config}), encoding="utf-8")
    with pytest.raises(ModelError, match=fragment):
        check(folder)


def test_no_value_of_a_config_is_a_traceback(tmp_path: Path) -> None:
    """Every key that a rule looks at, with a value of another type than it should have."""
    folder = make_folder(tmp_path / "made", {}, 6)
    keys = ["layer_types", "no_rope_layers", "sliding_window", "sliding_window_pattern", "head_dim", "hidden_size",
            "num_attention_heads", "query_pre_attn_scalar", "scale_depth", "rope_theta", "rope_parameters",
            "rope_scaling", "max_window_layers", "use_sliding_window", "partial_rotary_factor", "mlp_only_layers",
            "decoder_sparse_step", "rope_local_base_freq", "dtype", "architectures", "text_config"]  # fmt: skip
    values = [None, 0, -1, 2.5, "", "LLLG", True, [], [1] * 6, [[]] * 6, {}, {"full_attention": 1}, {"a": {"b": 1}}]
    families = sorted({fact.family for engine in ENGINES.values() for fact in engine.facts})
    random = Random(0)
    for family in families:
        for _ in range(12):
            config = {key: random.choice(values) for key in random.sample(keys, 6)}
            config = {"architectures": ["GemmaForCausalLM"], **config, "model_type": family, "num_hidden_layers": 6}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            with suppress(ModelError):
                check(folder)
            with suppress(ModelError, RecipeError):
                for one in restrictions(config, NAMES):
                    one.allows([0, 2, 3])


def test_for_in_a_recipe_is_a_list_or_names_between_commas(tmp_path: Path) -> None:
    for said in ("[vllm, llama.cpp]", "vllm, llama.cpp"):
        (tmp_path / "recipe.yaml").write_text(f"for: {said}\n", encoding="utf-8")
        assert build_recipe(read_recipe(tmp_path / "recipe.yaml")).for_engines == ["vllm", "llama.cpp"]
    with pytest.raises(RecipeError, match=r"r\.yaml: for: expected one of transformers"):
        build_recipe({"for": ["vlm"]}, where="r.yaml")


def test_a_plan_says_engines_if_any_are_named() -> None:
    assert "for" not in settings_of(build_recipe({}), None)
    assert settings_of(build_recipe({"for": "mlx"}), None)["for"] == ["mlx"]


def test_types_of_transformers_5_are_those_of_its_version() -> None:
    engine = ENGINES["transformers"]
    if transformers.__version__ != engine.version:
        pytest.skip(f"the facts are of {engine.version}")
    assert engine.families == {*transformers.CONFIG_MAPPING}


def test_every_row_has_a_source_and_every_engine_a_version() -> None:
    assert tuple(ENGINES) == NAMES
    for engine in ENGINES.values():
        assert engine.version
        assert all(fact.source and fact.says and fact.family for fact in engine.facts)
        assert engine.families is None or {fact.family for fact in engine.facts} <= engine.families


def test_facts_import_no_torch() -> None:
    code = "import sys, lowrise.engines; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_run_names_the_engines_that_would_misread_its_output(main: Main, tmp_path: Path, text_file: Path) -> None:
    """A tiny Gemma-3 whose one full layer is the last of six: without another one it is the fifth."""
    import tiny

    model, out = tiny.save(tmp_path / "model", "gemma3_text"), tmp_path / "out"
    given = ["--layers", "1", "--text", text_file, "--eval-text", text_file, "--windows", "1", "--length", "32"]
    status, printed, _ = main("run", model, *given, "--samples", "4", "--device", "cpu", "--out", out, "--quiet")
    assert status == 0
    assert printed.splitlines()[-1] == f"written to {out}; llama.cpp reads it WRONG: see `lowrise check`"
    results = json.loads((out / "lowrise" / "results.json").read_text(encoding="utf-8"))
    assert [(one["engine"], one["fate"]) for one in results["engines"]] == [
        (verdict.engine, verdict.fate) for verdict in check(out)
    ]
    for place in ("README.md", "lowrise/report.html"):
        assert "Misread by llama.cpp" in (out / place).read_text(encoding="utf-8")


def test_run_for_engines_makes_what_they_read_right(main: Main, tmp_path: Path, text_file: Path) -> None:
    """Of eight layers the sixth is full: only the two behind it can go."""
    import tiny

    model, out = tiny.save(tmp_path / "model", "gemma3_text", num_hidden_layers=8), tmp_path / "out"
    given = ["--preset", "streamline-none", "--remove", "1", "--text", text_file, "--eval-text", text_file]
    given += ["--windows", "1", "--length", "32", "--samples", "4", "--device", "cpu", "--out", out, "--quiet"]
    status, printed, err = main("run", model, *given, "--for", "llama.cpp,mlx")
    assert (status, printed.splitlines()[-1]) == (0, f"written to {out}"), err
    plan = json.loads((out / "lowrise" / "plan.json").read_text(encoding="utf-8"))
    assert plan["settings"]["for"] == ["llama.cpp", "mlx"]
    assert plan["edits"][0]["start"] in (6, 7)
    assert main("check", out, "--for", "llama.cpp,mlx")[0] == 0


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        ("gemma3_text", [], "llama.cpp and MLX would read some cuts of this model wrong; --for llama.cpp,mlx makes"),
        ("gemma3_text", ["--for", "llama.cpp"], "MLX would read some cuts of this model wrong; --for mlx makes"),
        ("gemma3_text", ["--for", "llama.cpp,mlx"], None),
        ("llama", [], None),
    ],
)
def test_engines_that_would_read_some_cuts_wrong_are_named_before_layers_are_chosen(
    main: Main, tmp_path: Path, text_file: Path, family: str, more: list[str], said: str | None
) -> None:
    import tiny

    model = tiny.save(tmp_path / "model", family, num_hidden_layers=8)
    given = ["--preset", "streamline-none", "--remove", "1", "--text", text_file, "--length", "32", "--samples", "4"]
    status, _, errors = main("plan", model, *given, *more, "--device", "cpu", "--out", tmp_path / "plan.json")
    assert status == 0, errors
    found = [line for line in errors.splitlines() if "would read some cuts" in line]
    assert len(found) == (said is not None)
    assert said is None or found[0].startswith(said)


def test_run_for_an_engine_that_does_not_open_the_model_is_refused(main: Main, tmp_path: Path) -> None:
    import tiny

    model = tiny.save(tmp_path / "model", "opt")
    answer = main("run", model, "--for", "mlx", "--out", tmp_path / "out", "--remove", "1", "--quiet")
    assert_one_line(*answer, ("--for mlx: expected a model that MLX reads, found OPTForCausalLM (opt)",))


def test_run_for_an_engine_that_needs_a_file_is_refused_before_the_run(main: Main, tmp_path: Path) -> None:
    """Its cut would lack it too."""
    import tiny

    model, out = tiny.save(tmp_path / "model", "gemma2"), tmp_path / "out"
    answer = main("run", model, "--for", "llama.cpp", "--out", out, "--remove", "1", "--quiet")
    assert_one_line(*answer, ("--for llama.cpp: expected tokenizer.model in ", "put the file"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("files", "found"),
    [({"model.safetensors": None}, "none"), ({"model.safetensors.index.json": "b"}, "no b, which model.safetensors.i")],
)
def test_weights_that_are_not_there_are_one_line(
    files: dict[str, str | None], found: str, main: Main, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "made", LLAMA, 6)
    for name, shard in files.items():
        if shard is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(json.dumps({"weight_map": {"w": "model.safetensors", "x": shard}}))
    assert_one_line(*main("check", folder), ("weights in safetensors files", found))


def test_a_gguf_file_is_one_line(main: Main, tmp_path: Path) -> None:
    """What llama.cpp takes by a layer's number stands in no GGUF file, so nothing can be compared."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    fragments = (
        "model.gguf: expected the folder of a model, found a GGUF file",
        "check the folder that it was made of",
    )
    assert_one_line(*main("check", file), fragments)


def test_check_by_the_command_line(main: Main, tmp_path: Path) -> None:
    config, layers, *_ = FOLDERS["gemma3-2-8-9-14"]
    folder = make_folder(tmp_path / "made", config, layers)
    status, printed, _ = main("check", folder)
    assert (status, len(printed.splitlines())) == (0, len(NAMES))
    assert main("check", folder, "--for", "vllm, transformers4")[0] == 0
    status, printed, err = main("check", folder, "--for", "vllm,llama.cpp", "--json")
    assert (status, err) == (1, "")
    assert [(one["engine"], one["fate"]) for one in json.loads(printed)] == [("vllm", "opens"), ("llama.cpp", "wrong")]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["check", "nowhere"], "nowhere: expected the folder of a model, found nothing"),
        (
            ["check", "nowhere", "--for", "vlm"],
            "--for: expected one of transformers, transformers4, vllm, llama.cpp, mlx",
        ),
        (
            ["run", "m", "--preset", "streamline-ffn", "--for", "mlx", "--out", "o"],
            "--for mlx: expected a preset whose",
        ),
    ],
)
def test_refusals(main: Main, arguments: list[str], fragment: str) -> None:
    assert_one_line(*main(*arguments), (fragment,))
