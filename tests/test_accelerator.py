"""What runs on an accelerator is what runs on the CPU, but for rounding. Run by `pytest -m gpu` where there is one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import mixtures
import tiny
from lowrise.calibration import Windows
from lowrise.calibration.written import write_windows
from lowrise.edit.student import Student
from lowrise.measure.perplexity import perplexity
from lowrise.model.batching import free_memory, telling
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore, LastingStore
from lowrise.observe.stream import observe
from lowrise.progress import Reporter
from lowrise.select.refit_search import choose_by_refit
from refusals import Main, assert_one_line
from repairs import repair

pytestmark = pytest.mark.gpu

QUIET = Reporter(quiet=True)
PRESETS = ["refit", "refit-span", "replaceme", "replaceme-cosine", "streamline", "laco", "ghosted"]
PRESETS += ["greedy-perplexity", "block-influence", "taylor"]


def accelerator() -> torch.device:
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


def on_both(family: str, dtype: torch.dtype = torch.float32) -> list[Decoder]:
    return [Decoder(tiny.model(family).to(dtype).to(device)) for device in ("cpu", accelerator())]


def windows(rows: int, seed: int = 0) -> Windows:
    return Windows(tiny.ids(rows, 32, seed), "test", 0)


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold", "fold-cosine"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_repairs_are_those_of_the_cpu(family: str, how: Any) -> None:
    """By the errors they leave: losses of random models hardly tell repairs apart."""
    found = []
    for decoder in on_both(family):
        fits = repair(Student(decoder, [0, 1, 4, 5]), Windows(tiny.ids(512, 32), "test", 0), 64, how, QUIET)
        found.append({fit.layer: fit for fit in fits})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for layer, fit in ours.items():
        assert fit.after == pytest.approx(theirs[layer].after, rel=0.05 if fit.descended else 1e-2)
        assert (fit.stop, fit.neurons, fit.descended) == (
            theirs[layer].stop,
            theirs[layer].neurons,
            theirs[layer].descended,
        )


@torch.no_grad()
def test_the_search_is_that_of_the_cpu() -> None:
    found = []
    for decoder in on_both("llama"):
        fitted, deciding = Windows(tiny.ids(64, 32), "test", 0), Windows(tiny.ids(16, 32, 1), "test", 0)
        choice = choose_by_refit(decoder, fitted, deciding, 2, 1, QUIET)
        found.append(choice.scores["rounds"][0]["divergences"])
    for one, other in zip(*found, strict=True):
        assert one == other or one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_where_auto_leads(
    preset: str, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    size = ["--threshold", "0.1"] if preset == "laco" else ["--remove", "2"]
    arguments = ["run", tiny_folder, "--preset", preset, "--text", text_file, "--out", out, *size, "--quiet"]
    calibration = [] if preset == "laco" else ["--samples", "64", "--length", "32"]
    status, _, errors = main(*arguments, *calibration, "--eval-text", text_file, "--windows", "4")
    assert (status, errors) == (0, "")
    results = json.loads((out / "lowrise" / "results.json").read_text())
    assert results["perplexity"]


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold", "ghosted", "prune-comp"])
def test_repairs_of_bfloat16_are_those_of_the_cpu(how: Any) -> None:
    found = []
    for decoder in on_both("llama", torch.bfloat16):
        fits = repair(Student(decoder, [0, 1, 4, 5]), windows(512), 64, how, QUIET)
        found.append([(fit.before, fit.after) for fit in fits if fit.stop != fit.layer + 1])
    for (before, ours), (_, theirs) in zip(*found, strict=True):
        assert before is not None
        assert ours == pytest.approx(theirs, abs=0.03 * before)


@torch.no_grad()
@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_mixtures_are_repaired_there_too(family: str) -> None:
    decoder = mixtures.decoder(family)
    decoder.model.to(accelerator())
    student = Student(Decoder(decoder.model), [0, *range(2, len(decoder))])
    fits = repair(student, windows(64), 16, "refit", QUIET)
    assert all(fit.after is not None and fit.before is not None and fit.after <= fit.before for fit in fits)


def test_healing_is_that_of_the_cpu(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "guard.txt").write_text(tiny.text(600, seed=5))
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    heal = ["--dense", tiny_folder, "--text", text_file, "--tokens", "4k", "--length", 32, "--learning-rate", 0.003]
    heal += ["--objective", "mix", "--guard", tmp_path / "guard.txt", "--quiet", "--dtype", "float32"]
    (tmp_path / "exact.yaml").write_text("heal: {precision: 'no'}\n")
    curves = []
    for device in ("cpu", "auto"):
        out = tmp_path / device
        recipe = ["--recipe", tmp_path / "exact.yaml", "--device", device]
        status, _, errors = main("heal", shallow, *heal, *recipe, "--out", out)
        assert (status, errors) == (0, "")
        curves.append(json.loads((out / "lowrise" / "results.json").read_text())["healing"]["train"])
    assert [loss for _, loss in curves[1]] == pytest.approx([loss for _, loss in curves[0]], rel=5e-3)


@pytest.mark.parametrize("preset", ["block-influence", "refit", "laco-mean"])
def test_layers_on_disk_are_read_by_the_cpu_beside_an_accelerator(
    preset: str, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """The same bytes as in its memory; the accelerator's is not what `--memory` bounds."""
    weights = []
    calibration = [] if preset == "laco-mean" else ["--samples", "32", "--length", "32"]
    asked = ["run", tiny_folder, "--text", text_file, "--preset", preset, "--remove", "2", *calibration, "--quiet"]
    ways: dict[str, list[str]] = {"resident": [], "streamed": ["--memory", "6GB"]}
    for name, more in ways.items():
        out = tmp_path / name
        status, _, errors = main(*asked, "--out", out, "--device", "cpu", *more)
        assert status == 0, errors
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    refused = main(*asked, "--out", tmp_path / "refused", "--memory", "6GB")
    assert_one_line(*refused, ("a model on the CPU, whose memory it bounds",))


# -- memory and time ------------------------------------------------------------------------------------------------


def test_sizes_follow_from_free_memory() -> None:
    (_, decoder), free = on_both("llama"), free_memory(accelerator())
    assert free is not None
    assert free > 0
    assert decoder.batching.tokens >= 1024
    assert not decoder.batching.fixed


@torch.no_grad()
def test_a_device_that_runs_out_of_memory_takes_half_the_batch() -> None:
    """In truth: the process is allowed so little of it that the activations of a batch do not fit."""
    if accelerator().type != "cuda":
        pytest.skip("only CUDA lets a process have less")
    ids, wide = windows(1024), {"intermediate_size": 8192}  # 32,768 tokens of 8,192 numbers: 1 GiB for each of three
    expected = observe(Decoder(tiny.model(**wide)), windows(64), QUIET).similarity.pairs()
    decoder = Decoder(tiny.model(**wide).to(accelerator()))
    decoder.batching.tokens = ids.tokens
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    said: list[str] = []
    torch.cuda.set_per_process_memory_fraction(1.5 * 2**30 / total)
    try:
        with telling(said.append):
            observe(decoder, ids, QUIET)
            found = observe(decoder, windows(64), QUIET).similarity.pairs()
            loss = perplexity(decoder, windows(64), QUIET)["loss"]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said
    assert "ran out of memory" in said[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert loss > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lasting", [True, False])
def test_states_come_back_as_they_were(dtype: torch.dtype, lasting: bool, tmp_path: Path) -> None:
    files = (tmp_path / "0", tmp_path / "1")
    with LastingStore(files, ("student",)) if lasting else ActivationStore() as store:
        for _turn in range(3):
            kept = []
            for number in range(16):
                h = torch.randn(4, 64, 256, device=accelerator()).to(dtype)
                kept.append(h.clone())
                store.put(("student", number), h)
                h.zero_()  # at once: what was put is what it was
            for number, h in enumerate(kept):
                assert torch.equal(store.get(("student", number)).to(accelerator(), non_blocking=True), h)
        assert store._mover.overlaps == (accelerator().type in ("cuda", "xpu"))


def test_nothing_waits_for_the_device_at_a_token() -> None:
    if accelerator().type != "cuda":
        pytest.skip("only CUDA tells")
    decoder, tokenizer = Decoder(tiny.model().to(accelerator())), tiny.tokenizer()
    counts = []
    for length in (8, 8, 64):  # the first warms up
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                write_windows(decoder, tokenizer, samples=4, length=length, seed=0, progress=QUIET)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("/lowrise/" in one.filename for one in seen))
    assert counts[1] == counts[2]


# -- several --------------------------------------------------------------------------------------------------------

several = pytest.mark.skipif(
    not torch.accelerator.is_available() or torch.accelerator.device_count() < 2, reason="needs two accelerators"
)


def both() -> str:
    return ",".join(f"{accelerator().type}:{number}" for number in range(2))


@several
@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_on_two_devices_is_cut_as_on_one(
    preset: str, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    results = []
    size = ["--threshold", "0.1"] if preset == "laco" else ["--remove", "2", "--samples", "64", "--length", "32"]
    for name, device in (("one", str(accelerator())), ("two", both())):
        out = tmp_path / name
        arguments = ["run", tiny_folder, "--preset", preset, "--text", text_file, "--out", out, *size, "--quiet"]
        status, _, errors = main(*arguments, "--eval-text", text_file, "--windows", "4", "--device", device)
        assert (status, errors) == (0, "")
        found = json.loads((out / "lowrise" / "results.json").read_text())
        (value,) = (one["value"] for one in found["perplexity"].values())
        results.append((found["layers"], value))
    assert results[0][0] == results[1][0]
    assert results[1][1] == pytest.approx(results[0][1], rel=2e-2)


@several
def test_layers_stay_where_they_are(tiny_folder: Path, tmp_path: Path) -> None:
    model = lowrise.open(tiny_folder, device=both())
    decoder = model.opened.decoder
    assert len(decoder.devices) == 2
    places = [decoder.device_of(layer) for layer in range(len(decoder))]
    tokens = lowrise.tokens(tiny.ids(64, 32))
    plan = lowrise.plan(model, tokens, preset="block-influence", remove=2, repair="refit")
    small = lowrise.apply(model, plan, tokens)
    gone = {layer for edit in plan.edits for layer in range(edit.start, edit.stop)}
    left = [place for layer, place in enumerate(places) if layer not in gone]
    assert [decoder.device_of(layer) for layer in range(len(decoder))] == left
    small.save(tmp_path / "saved")
    assert len(small.opened.decoder.devices) == 2
