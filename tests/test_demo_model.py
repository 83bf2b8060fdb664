"""The real model, SmolLM2-135M from its GGUF file: fetched by scripts/fetch_demo_model.py, skipped never."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import lm_eval
import pytest
import torch
from transformers import AutoModelForCausalLM

from lowrise.calibration import calibration_windows
from lowrise.model.source import OpenModel, open_model
from lowrise.progress import Reporter
from made_tasks import naive_stability, write_tasks
from refusals import Main, assert_one_line

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo model")]

MODEL = Path(__file__).resolve().parent.parent / ".demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SETTINGS = {"samples": 8, "length": 256, "seed": 0}


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(str(MODEL), device="cpu")


def naive_cosines(opened: OpenModel, topics_file: Path, n: int) -> torch.Tensor:
    """All hidden states from hooks on the layers, kept; plain cosine a token, mean over all tokens."""
    windows = calibration_windows(
        opened.decoder,
        opened.tokenizer,
        text=[str(topics_file)],
        dataset=None,
        progress=Reporter(quiet=True),
        **SETTINGS,
    )
    layers = opened.model.model.layers
    kept: list[list[torch.Tensor]] = [[] for _ in range(31)]
    hooks = [
        layer.register_forward_pre_hook(lambda _m, args, i=i: kept[i].append(args[0])) for i, layer in enumerate(layers)
    ]
    hooks.append(layers[-1].register_forward_hook(lambda _m, _a, out: kept[30].append(out)))
    with torch.no_grad():
        for row in windows.ids:
            opened.model(input_ids=row[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    h = [torch.cat(states).double() for states in kept]
    ends = [(h[start], h[start + n]) for start in range(31 - n)]
    return torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=-1).mean() for a, b in ends])


def test_streamline_none_chooses_what_a_naive_reference_chooses(
    main: Main, opened: OpenModel, topics_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    chosen = ["--preset", "streamline-none", "--remove", "8", "--text", topics_file]
    status, _, errors = main("run", MODEL, *chosen, *settings, "--out", out, "--quiet")
    assert status == 0, errors
    plan = json.loads((out / "lowrise/plan.json").read_text())
    expected = naive_cosines(opened, topics_file, 8)
    assert torch.allclose(torch.tensor(plan["scores"]["cosine"], dtype=torch.float64), expected, atol=1e-5)
    start = int(expected.argmax())
    assert plan["edits"] == [{"start": start, "stop": start + 8, "kind": "drop"}]
    assert plan["scores"]["massive_activations"]["writers"] == [11]
    reloaded = AutoModelForCausalLM.from_pretrained(out)
    assert len(reloaded.model.layers) == 22
    kept = [*range(start), *range(start + 8, 30)]
    for index, original in enumerate(kept):
        ours = reloaded.model.layers[index].mlp.down_proj.weight
        assert torch.equal(ours, opened.model.model.layers[original].mlp.down_proj.weight)


def test_a_truncated_copy_is_refused_in_one_line(main: Main, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(MODEL.read_bytes()[:-1_000_000])
    assert_one_line(*main("measure", broken), (broken,))


def test_task_scores_are_those_of_lm_evals_own_command_line(main: Main, tmp_path: Path) -> None:
    """On the shallower model that a run writes, to the last digit."""
    folder, out = write_tasks(tmp_path / "tasks", count=12), tmp_path / "out"
    asked = ["made_choice", "made_subjects", "made_contexts", "made_writing"]
    chosen = ["--preset", "streamline-none", "--remove", "8", "--samples", "2", "--length", "64", "--device", "cpu"]
    chosen += ["--tasks", ",".join(asked), "--task-dir", folder, "--limit", "10"]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(topics.values()), encoding="utf-8")
    status, said, errors = main("run", MODEL, *chosen, "--text", text, "--out", out, "--json", "--quiet")
    assert status == 0, errors
    ours = json.loads(said)["tasks"]
    command = [Path(sys.executable).with_name("lm_eval"), "--model", "hf", "--model_args", f"pretrained={out}"]
    command += ["--device", "cpu", "--batch_size", "8", "--include_path", folder, "--tasks", ",".join(asked)]
    command += ["--limit", "10", "--output_path", tmp_path / "theirs"]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=250)
    (file,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]
    for name in asked:
        for metric in set(ours[name]) & {"acc", "acc_norm", "likeness"}:
            assert ours[name][metric] == theirs[name][f"{metric},none"], (name, metric)
            assert ours[name][f"{metric}_stderr"] == theirs[name][f"{metric}_stderr,none"], (name, metric)


def test_stability_is_the_naive_one_of_lm_evals_logged_samples(opened: OpenModel, tmp_path: Path) -> None:
    """Dense against a copy without layers [12, 20)."""
    from lowrise.measure import harness
    from lowrise.measure.stability import stability, stability_published
    from lowrise.measure.tasks import load_tasks

    folder, quiet = write_tasks(tmp_path / "tasks", count=12), Reporter(quiet=True)
    before, after = opened, open_model(str(MODEL), device="cpu")
    after.decoder.drop(12, 20)
    tasks = load_tasks(["made_choice", "made_contexts"], str(folder), 10, None, quiet)
    for name, (loaded,) in tasks.leaves.items():
        samples, answers = [], []
        for model in (before, after):
            lm = harness.Harness(model.decoder, model.tokenizer)
            answers.append(harness.evaluate(lm, loaded, 10, quiet).answers)
            theirs = lm_eval.simple_evaluate(lm, tasks=[loaded.task], limit=10, bootstrap_iters=0)
            samples.append(theirs["samples"][name])
        naive = naive_stability(opened.tokenizer, *samples)
        assert stability(*answers) == pytest.approx(naive[0], abs=1e-9)
        assert stability_published(*answers) == pytest.approx(naive[1], abs=1e-9)
