"""Tasks through the command line, against lm-eval itself, and against what it logs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from lowrise.model.decoder import Decoder
from made_tasks import items, naive_stability, write_choice, write_extracting, write_items, write_tasks
from tiny_families import tiny_model
from warm import Warm

Main = Callable[..., tuple[int, str, str]]
NAMES = ["made_choice", "made_subjects", "made_contexts"]
EVERY = [*NAMES, "made_writing"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "dense", dtype=torch.float32)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "shallow", num_hidden_layers=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


@pytest.fixture
def measured(main: Main, folder: Path) -> Callable[..., dict[str, Any]]:
    def run(model: Path, *options: object, tasks: list[str] = EVERY) -> dict[str, Any]:
        status, printed, errors = main(
            "measure", model, "--tasks", ",".join(tasks), "--task-dir", folder, "--json", *options
        )
        assert status == 0, errors
        found: dict[str, Any] = json.loads(printed)
        return found

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of layers of every model that is run, one entry a forward pass."""
    from transformers import LlamaForCausalLM

    seen: list[int] = []
    forward = LlamaForCausalLM.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.config.num_hidden_layers)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return seen


def logged(model: Path, folder: Path, tasks: list[str] = EVERY, **options: Any) -> dict[str, Any]:
    """lm-eval by itself on a model of its own loading, with the samples that it logs."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    lm = HFLM(str(model), device="cpu", dtype="float32", batch_size=1)
    found = lm_eval.simple_evaluate(lm, tasks=tasks, task_manager=manager, bootstrap_iters=100, **options)
    assert found is not None
    return dict(found)


def test_scores_are_lm_evals_own_and_stability_is_the_naive_one_of_its_logged_samples(
    measured: Callable[..., dict[str, Any]], dense: Path, shallow: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "batch_tokens", 1)  # one row a batch on both sides: the same float32 rounding
    found = measured(shallow, "--dense", dense)
    before, after = logged(dense, folder), logged(shallow, folder)
    for results, reference in ((found["dense"], before), (found, after)):
        for name in EVERY:
            theirs = {key.removesuffix(",none"): value for key, value in reference["results"][name].items()}
            row = dict(results["tasks"][name])
            assert row.pop("n") == reference["n-samples"][name]["effective"]
            assert row.pop("fewshot") == 0
            chance = row.pop("chance", None)
            assert chance == {"made_subjects": 1 / 4, "made_writing": None}.get(name, 1 / 2)
            assert row == {key: theirs[key] for key in row}
    tokenizer = AutoTokenizer.from_pretrained(dense)
    for name in NAMES:
        pairs = [before["samples"][name], after["samples"][name]]
        subjects = sorted({sample["doc"].get("subject", "") for sample in pairs[0]})
        naive = [
            naive_stability(tokenizer, *([s for s in one if s["doc"].get("subject", "") == subject] for one in pairs))
            for subject in subjects
        ]
        assert len(subjects) == (2 if name == "made_subjects" else 1)
        assert found["stability"][name] == pytest.approx(sum(a for a, _ in naive) / len(naive), abs=1e-9)
        assert found["stability_published"][name] == pytest.approx(sum(b for _, b in naive) / len(naive), abs=1e-9)
        picks = [[max(range(len(s["resps"])), key=lambda i: s["filtered_resps"][i][0]) for s in one] for one in pairs]
        same = sum(a == b for a, b in zip(*picks, strict=True)) / len(picks[0])
        assert found["agreement"][name] == pytest.approx(same)
        ratio = after["results"][name]["acc,none"] / before["results"][name]["acc,none"]
        assert found["retained"]["tasks"][name]["ratio"] == pytest.approx(ratio)
    assert set(found["stability"]) == set(NAMES)
    assert set(found["retained"]["tasks"]) == set(EVERY)


def test_a_group_is_lm_evals_average_and_its_stability_the_mean_over_subtasks(
    measured: Callable[..., dict[str, Any]], dense: Path, shallow: Path
) -> None:
    found = measured(shallow, "--dense", dense, tasks=["made_group", *NAMES])
    group, one, other = (found["tasks"][name] for name in ("made_group", "made_choice", "made_subjects"))
    assert group["acc"] == pytest.approx((8 * one["acc"] + 11 * other["acc"]) / 19)
    assert group["n"] == 19
    assert group["chance"] == pytest.approx((8 / 2 + 11 / 4) / 19)
    assert group["subtasks"] == {"made_choice": one, "made_subjects": other}
    parts = [found["stability"][name] for name in ("made_choice", "made_subjects")]
    assert found["stability"]["made_group"] == pytest.approx(sum(parts) / 2)
    row = found["retained"]["tasks"]["made_group"]
    assert row["ratio"] == pytest.approx(group["acc"] / found["dense"]["tasks"]["made_group"]["acc"])


def test_an_answer_is_extracted_from_what_is_written(
    measured: Callable[..., dict[str, Any]], dense: Path, shallow: Path, folder: Path
) -> None:
    """As in GSM8K, whose examples in front of an item and two filters these are."""
    write_extracting(folder)
    found = measured(shallow, "--dense", dense, "--fewshot", 2, tasks=["made_extracting"])
    for results, model in ((found["dense"], dense), (found, shallow)):
        row, reference = results["tasks"]["made_extracting"], logged(model, folder, ["made_extracting"], num_fewshot=2)
        theirs = reference["results"]["made_extracting"]
        assert row["exact_match"] == theirs["exact_match,strict-match"]
        assert row["exact_match,flexible-extract"] == theirs["exact_match,flexible-extract"]
        assert (row["n"], row["fewshot"]) == (8, 2)
    assert found["retained"]["tasks"]["made_extracting"]["metric"] == "exact_match"


def test_limit_and_fewshot_are_lm_evals(measured: Callable[..., dict[str, Any]], dense: Path, folder: Path) -> None:
    found = measured(dense, "--limit", 5, "--fewshot", 1)
    reference = logged(dense, folder, limit=5, num_fewshot=1)
    for name in EVERY:
        metric = "likeness" if name == "made_writing" else "acc"
        assert found["tasks"][name][metric] == reference["results"][name][f"{metric},none"]
        assert (found["tasks"][name]["n"], found["tasks"][name]["fewshot"]) == (5, 1)


def test_run_measures_both_models_and_keeps_the_settings(
    main: Main, dense: Path, folder: Path, tmp_path: Path, text_file: Path
) -> None:
    out = tmp_path / "out"
    status, printed, errors = main(
        "run", dense, "--preset", "streamline-none", "--remove", 2, "--text", text_file, "--length", 32, "--samples", 8,
        "--tasks", "made_choice", "--task-dir", folder, "--limit", 4, "--out", out, "--quiet",
    )  # fmt: skip
    assert status == 0, errors
    results = json.loads((out / "lowrise/results.json").read_text())
    assert results["tasks"]["made_choice"]["n"] == results["dense"]["tasks"]["made_choice"]["n"] == 4
    assert 0 <= results["stability"]["made_choice"] <= 1
    assert "made_choice, acc" in printed
    assert "| made_choice (" in (out / "README.md").read_text()
    assert "tasks:\n- made_choice\n" in (out / "lowrise/recipe.yaml").read_text()
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["pad_token"] == "</s>"  # lm-eval gives its tokenizer another where there is none


def test_a_recipe_holds_what_the_command_line_says(
    main: Main, dense: Path, folder: Path, tmp_path: Path, text_file: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"tasks: [made_choice]\ntask_dir: {folder}\nlimit: 3\nfewshot: 0\nremove: 2\n")
    status, printed, errors = main(
        "run", dense, "--preset", "streamline-none", "--text", text_file, "--length", 32, "--samples", 8,
        "--recipe", recipe, "--limit", 2, "--out", tmp_path / "out", "--json", "--quiet",
    )  # fmt: skip
    assert status == 0, errors
    assert json.loads(printed)["tasks"]["made_choice"]["n"] == 2


class TestMeasuredOnce:
    def test_a_second_measurement_runs_no_model_and_says_the_same(
        self, measured: Callable[..., dict[str, Any]], passes: list[int], dense: Path, shallow: Path, text_file: Path
    ) -> None:
        options = ["--dense", dense, "--text", text_file, "--length", 32, "--windows", 4]
        first = measured(shallow, *options)
        assert set(passes) == {6, 3}
        passes.clear()
        second = measured(shallow, *options)
        assert passes == []
        for results in (first, second):
            del results["seconds"], results["memory"]
        assert first == second

    def test_the_dense_model_is_not_run_for_another_compressed_one(
        self, measured: Callable[..., dict[str, Any]], passes: list[int], dense: Path, shallow: Path, tmp_path: Path
    ) -> None:
        measured(shallow, "--dense", dense)
        other = tiny.save(tmp_path / "other", num_hidden_layers=2)
        passes.clear()
        measured(other, "--dense", dense)
        assert set(passes) == {2}

    def test_a_copy_elsewhere_is_the_same_model_on_the_same_data(
        self, measured: Callable[..., dict[str, Any]], passes: list[int], dense: Path, tmp_path: Path
    ) -> None:
        measured(dense)
        passes.clear()
        measured(tiny.save(tmp_path / "copy"))
        assert passes == []

    @pytest.mark.parametrize("change", ["weight", "config", "dtype", "tokenizer", "item", "score", "limit", "entry"])
    def test_whatever_decides_a_score_is_measured_anew(
        self, measured: Callable[..., dict[str, Any]], passes: list[int], cache: Path, folder: Path, tmp_path: Path,
        change: str,
    ) -> None:  # fmt: skip
        model = tiny.save(tmp_path / "model")
        names = ["made_writing"] if change == "score" else ["made_choice"]
        measured(model, tasks=names)
        passes.clear()
        options: list[object] = []
        if change == "weight":
            changed = AutoModelForCausalLM.from_pretrained(model)
            changed.model.norm.weight.data[0] += 1e-3
            changed.save_pretrained(model)
        elif change == "config":
            config = json.loads((model / "config.json").read_text())
            config["rms_norm_eps"] *= 2
            (model / "config.json").write_text(json.dumps(config))
        elif change == "dtype":
            options = ["--dtype", "bfloat16"]
        elif change == "tokenizer":
            written = json.loads((model / "tokenizer.json").read_text())
            written["pre_tokenizer"]["add_prefix_space"] = True
            (model / "tokenizer.json").write_text(json.dumps(written))
        elif change == "item":
            write_items(folder / "choice.jsonl", items(7, 2, seed=1) + items(1, 2, seed=9))
        elif change == "score":
            file = folder / "made.py"
            file.write_text(file.read_text().replace("% 3", "% 4"))
        elif change == "limit":
            options = ["--limit", 7]
        else:
            (entry,) = cache.iterdir()
            entry.write_text(entry.read_text().replace('"acc,none": 0.', '"acc,none": 1.'))
        measured(model, *options, tasks=names)
        assert passes

    def test_killed_in_the_middle_it_goes_on_with_the_next_task(
        self, main: Main, cache: Path, dense: Path, tmp_path: Path
    ) -> None:
        folder = write_tasks(tmp_path / "many", count=60)
        arguments = ["measure", dense, "--tasks", ",".join(EVERY), "--task-dir", folder, "--device", "cpu"]
        with Path(os.devnull).open("wb") as nowhere:
            process = Warm(arguments, nowhere.fileno(), nowhere.fileno())
            end = time.monotonic() + 60
            while not list(cache.glob("*.json")) and time.monotonic() < end:
                time.sleep(0.001)
            process.kill()
            process.wait(60)
        finished = {file: file.stat().st_mtime_ns for file in cache.glob("*.json")}
        assert 1 <= len(finished) < len(EVERY)
        status, printed, errors = main(*arguments, "--json")
        assert status == 0, errors
        assert errors.count("kept from before") == len(finished)
        assert {file: file.stat().st_mtime_ns for file in finished} == finished
        assert len(list(cache.glob("*.json"))) == len(EVERY)
        assert set(json.loads(printed)["tasks"]) == set(EVERY)


def test_the_papers_list_takes_what_there_is_and_names_what_is_missing(main: Main, dense: Path, folder: Path) -> None:
    for name in ("local_piqa", "local_c3"):
        write_choice(folder, name, f"{name}.jsonl", items(3, 2, seed=4))
    status, printed, errors = main(
        "measure", dense, "--tasks", "papers,made_choice", "--task-dir", folder, "--json", "--quiet"
    )
    assert status == 0
    assert list(json.loads(printed)["tasks"]) == ["local_c3", "local_piqa", "made_choice"]
    assert "has no task for CMNLI" in errors
    assert "PIQA" not in errors


@pytest.mark.parametrize(("kind", "tokens"), [("roberta", 126), ("llama", 128)])
def test_no_task_reads_more_tokens_than_the_model_has_positions_for(kind: str, tokens: int) -> None:
    """Of 128; the table of the first begins with rows for padding."""
    from lowrise.measure.harness import Harness

    assert Harness(Decoder(tiny_model(kind)), tiny.tokenizer()).max_length == tokens
