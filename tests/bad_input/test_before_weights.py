"""What config, header and tokenizer already say is wrong is refused before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from lowrise.errors import ModelError, RecipeError, TextError
from made_gguf import save_gguf
from refusals import Main, assert_one_line, edit_config

_SIZE = ("--remove: expected 1 to 5 of the 6 layers, or a share such as 25%, found '40'; give such a number",)


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("weights were read")

    for place in ("pipeline.opening.open_model", "api.measuring.open_source", "api.healing.open_source"):
        monkeypatch.setattr(f"lowrise.{place}", opened)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another tokenizer."""
    folder = tiny.save(tmp_path_factory.mktemp("other") / "model")
    written = json.loads((folder / "tokenizer.json").read_text())
    written["model"]["merges"] = written["model"]["merges"][:10]
    (folder / "tokenizer.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize("command", ["run", "plan"])
def test_more_layers_than_there_are(main: Main, tiny_folder: Path, tmp_path: Path, command: str) -> None:
    asked = ("--preset", "tail", "--remove", 40, "--quiet", "--out", tmp_path / "out.json")
    assert_one_line(*main(command, tiny_folder, *asked), _SIZE)


def test_more_layers_than_a_gguf_file_has(main: Main, gguf: Path, tmp_path: Path) -> None:
    assert_one_line(*main("run", gguf, "--preset", "tail", "--remove", 40, "--quiet", "--out", tmp_path / "out"), _SIZE)


def test_a_size_of_a_comparison(tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    from lowrise.compare import ask
    from lowrise.compare.preparing import prepare
    from lowrise.progress import Reporter

    asked = ask(["tail"], ["2", "40"], [{"model": str(tiny_folder), "text": [str(text_file)]}], "")
    (tmp_path / "asked.json").write_text(asked.to_json())
    with pytest.raises(RecipeError, match="1 to 5 of the 6 layers"):
        prepare(tmp_path, tmp_path / "asked.json", Reporter(quiet=True))


def test_layers_by_number(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    asked = ("--layers", "3,6", "--quiet", "--out", tmp_path / "out")
    assert_one_line(*main("run", tiny_folder, *asked), ("--layers: expected layers from 0 to 5", "found layer 6"))


def test_a_plan_for_another_depth(main: Main, tiny_folder: Path, tmp_path: Path, tiny_plan: dict[str, Any]) -> None:
    plan = tiny_plan | {"model": tiny_plan["model"] | {"layers": 8}, "layers_after": 6}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = main("apply", tiny_folder, tmp_path / "plan.json", "--quiet", "--out", tmp_path / "out")
    assert_one_line(*done, ("a model with layers 8", f"layers 6 in {tiny_folder}"))


@pytest.mark.parametrize("option", ["--dense", "--draft-for"])
def test_measure_beside_a_model_of_another_tokenizer(
    main: Main, tiny_folder: Path, text_file: Path, other: Path, option: str
) -> None:
    done = main("measure", tiny_folder, option, other, "--text", text_file, "--quiet")
    assert_one_line(*done, (f"{option} {other}", "a model of the same tokenizer"))


def test_measure_in_python(tiny_folder: Path, text_file: Path, other: Path) -> None:
    import lowrise

    with pytest.raises(ModelError, match="same tokenizer"):
        lowrise.measure(tiny_folder, dense=other, text=text_file)


def test_heal_in_python(tiny_folder: Path, text_file: Path, other: Path) -> None:
    import lowrise

    shallow = lowrise.wrap(tiny.model(num_hidden_layers=4), tiny.tokenizer())
    with pytest.raises(ModelError, match=f"dense, {other}: expected a model of the same tokenizer"):
        lowrise.heal(shallow, dense=other, text=text_file)
    as_deep = lowrise.wrap(tiny.model(), tiny.tokenizer())
    with pytest.raises(ModelError, match=r"fewer layers than .*, which has 6, found 6; apply a plan"):
        lowrise.heal(as_deep, dense=tiny_folder, text=text_file)
    with pytest.raises(TextError, match=r"nowhere\.txt"):
        lowrise.heal(shallow, dense=tiny_folder, text="nowhere.txt")
    with pytest.raises(RecipeError, match="--report-to"):
        lowrise.heal(shallow, dense=tiny_folder, text=text_file, report_to=["no-such-logger"])


@pytest.mark.parametrize("dense", ["dense", "draft_for"])
def test_a_tokenizer_beside_a_model_may_bring_what_that_one_might(
    tiny_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, dense: str
) -> None:
    import lowrise

    settings = {"model": str(tiny_folder), "trust_remote_code": True, "allow_pickle": False}
    trusting = lowrise.Model(lowrise.wrap(tiny.model(), tiny.tokenizer()).opened, settings)
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr("lowrise.api.dense.open_tokenizer", lambda _, **how: asked.append(how) or tiny.tokenizer())
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        lowrise.measure(trusting, text=text_file, **{dense: tiny_folder})  # type: ignore[arg-type]
    assert asked == [{"trust_remote_code": True, "allow_pickle": False}]


def test_heal_by_a_model_of_another_tokenizer(main: Main, tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    done = main("heal", tiny_folder, "--dense", other, "--quiet", "--out", tmp_path / "out")
    assert_one_line(*done, (f"--dense {other}", "a model of the same tokenizer"))


def test_a_cut_that_is_healed_by_one(
    main: Main, tiny_folder: Path, text_file: Path, other: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"preset: tail\nremove: 2\ntext: [{text_file}]\nheal: {{tokens: 1k, dense: {other}}}\n")
    done = main("run", tiny_folder, "--recipe", recipe, "--quiet", "--out", tmp_path / "out")
    assert_one_line(*done, (f"--dense {other}", "a model of the same tokenizer"))


def test_what_config_does_not_say_is_left_to_opening(tiny_folder: Path, tmp_path: Path) -> None:
    """Which says it in full: here nothing is refused for want of a number."""
    import shutil

    from lowrise.pipeline.opening import check_depth
    from lowrise.recipe import build_recipe

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    edit_config(folder, model_type="no-such-type")
    check_depth(build_recipe({"model": str(folder), "remove": "40"}))
