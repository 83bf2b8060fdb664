"""Models whose layers take keys and values of others, through the command line: cut, refit, merged, on disk, killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from lowrise.errors import LowriseError
from lowrise.model.source import open_model
from lowrise.observe.passes import logits_of_batches
from lowrise.store import Memory
from lowrise.work import Work
from refusals import Main
from shared_keys import KINDS, save

QUICK = ["--samples", "32", "--length", "32", "--device", "cpu", "--remove", "2"]
REFIT = ["--layers", "2,5", "--repair", "refit", "--samples", "32", "--length", "32", "--device", "cpu"]
ROOMY = "64GB"  # a bound that is never reached: layers lie on disk all the same


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / request.param, request.param)


def run(main: Main, folder: Path, text: Path, out: Path, *options: str) -> dict[str, Any]:
    status, _, errors = main("run", folder, "--text", text, "--out", out, *options)
    assert status == 0, errors
    found: dict[str, Any] = json.loads((out / "lowrise" / "results.json").read_text())
    return found


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.safetensors"))}


@pytest.mark.parametrize(
    "options",
    [
        ["--preset", "refit"],
        ["--preset", "streamline-none", "--repair", "refit"],
        ["--preset", "laco-mean", "--combine", "2"],
    ],
    ids=["refit", "repair", "laco-mean"],
)
def test_it_is_cut_repaired_or_merged_and_opens_plainly(
    main: Main, folder: Path, text_file: Path, tmp_path: Path, options: list[str]
) -> None:
    """The run itself proves that what was written gives the logits that were in memory, cached and uncached alike."""
    results = run(main, folder, text_file, tmp_path / "out", *QUICK, *options)
    assert results["layers"] == 6
    assert bool(results.get("repairs")) == ("refit" in options)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(made.model.layers) == 6 and made.config.num_kv_shared_layers in (1, 2, 3)
    assert torch.isfinite(made(input_ids=tiny.ids()).logits).all()


def test_layers_on_disk_make_the_same_bytes(main: Main, folder: Path, text_file: Path, tmp_path: Path) -> None:
    for name, more in (("resident", []), ("disk", ["--memory", ROOMY])):
        run(main, folder, text_file, tmp_path / name, *REFIT, *more)
    assert weights(tmp_path / "disk") == weights(tmp_path / "resident")


@torch.no_grad()
def test_layers_on_disk_are_read_once_for_all_batches_and_lend_to_each_its_own(folder: Path) -> None:
    decoder = open_model(str(folder), device="cpu", memory=Memory(ROOMY)).decoder
    calls: list[int] = []
    for number, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    batches = [*tiny.windows().batches(128)]
    found = [logits for _, logits in logits_of_batches(decoder, batches)]
    assert calls[-4 * 8 :] == [layer for layer in range(8) for _ in batches]
    for ids, logits in zip(batches, found, strict=True):
        assert torch.equal(logits, decoder.model(input_ids=ids, use_cache=False).logits)


def test_a_repair_that_was_stopped_goes_on_above_the_layers_that_lend(
    main: Main, folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(main, folder, text_file, tmp_path / "whole", *REFIT)
    keep, at = Work.keep, list[str]()

    def stopping(work: Work, name: str, *given: Any, **how: Any) -> None:
        keep(work, name, *given, **how)
        if name == "layer-4":
            raise LowriseError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Work, "keep", stopping)
        status, _, _ = main("run", folder, "--text", text_file, "--out", tmp_path / "out", *REFIT)
        assert status == 1

    def noting(work: Work, name: str, *given: Any, **how: Any) -> None:
        at.append(name)
        keep(work, name, *given, **how)

    monkeypatch.setattr(Work, "keep", noting)
    run(main, folder, text_file, tmp_path / "out", *REFIT)
    assert [name for name in at if name.startswith("layer-")] == ["layer-6", "layer-7"]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
