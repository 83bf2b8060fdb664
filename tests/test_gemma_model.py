"""The second real model, Gemma-3-270M: it needs BOS, has sliding windows, and norms behind what its layers write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lowrise.calibration import text_windows
from lowrise.measure.perplexity import perplexity
from lowrise.model.source import OpenModel, open_model
from lowrise.progress import Reporter
from refusals import Main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("gemma")]

MODEL = Path(__file__).resolve().parent.parent / ".demo" / "gemma-3-270m-q4_k_m.gguf"
WINDOWS, LENGTH = 2, 256


@pytest.fixture(scope="module")
def opened() -> Iterator[OpenModel]:
    yield open_model(str(MODEL), device="cpu")


def naive_perplexity(opened: OpenModel, topics_file: Path, front: list[int]) -> float:
    """By the model's own call: windows of `front` and text, every token of the text that has one before it."""
    ids = opened.tokenizer(topics_file.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    body = LENGTH - len(front)
    total, count = 0.0, 0
    with torch.no_grad():
        for window in range(WINDOWS):
            row = torch.tensor([front + ids[window * body : (window + 1) * body]])
            logits = opened.model(input_ids=row, use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
            count += row.shape[1] - 1
    return math.exp(total / count)


def test_perplexity_begins_with_bos_as_the_tokenizer_does(opened: OpenModel, topics_file: Path) -> None:
    bos = opened.tokenizer.bos_token_id
    for mode, front in (("auto", [bos]), ("never", [])):
        windows = text_windows(opened.tokenizer, str(topics_file), LENGTH, mode).first(WINDOWS)
        assert windows.ids[0, : len(front)].tolist() == front
        found = perplexity(opened.decoder, windows, Reporter(quiet=True))
        assert found["value"] == pytest.approx(naive_perplexity(opened, topics_file, front), rel=1e-3)
        assert found["bos"] == bool(front)
    assert naive_perplexity(opened, topics_file, [bos]) < 0.6 * naive_perplexity(opened, topics_file, [])


def test_a_cut_is_measured_with_bos_and_loads_plainly(main: Main, topics_file: Path, tmp_path: Path) -> None:
    status, _, errors = main(
        "run", MODEL, "--preset", "block-influence", "--remove", 4, "--text", topics_file, "--samples", 2,
        "--length", LENGTH, "--eval-text", topics_file, "--windows", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, errors
    results = json.loads((tmp_path / "out/lowrise/results.json").read_text())
    assert (results["layers"], results["dense"]["layers"]) == (14, 18)
    assert results["perplexity"]["topics.txt"]["bos"] is True
    assert json.loads((tmp_path / "out/lowrise/plan.json").read_text())["calibration"]["bos"] is True
