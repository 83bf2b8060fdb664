"""Perplexity as DESIGN.md defines it, and sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import tiny
from lowrise.calibration import Windows, text_windows
from lowrise.measure.perplexity import perplexity
from lowrise.measure.size import size
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

QUIET = Reporter(quiet=True)


def test_a_model_that_knows_nothing_has_the_vocabularys_perplexity() -> None:
    """Equal logits everywhere: cross-entropy ln V, perplexity V."""
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = perplexity(Decoder(model), Windows(tiny.ids(), "", 0), QUIET)
    assert found["value"] == pytest.approx(tiny.VOCABULARY, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_perplexity_agrees_with_a_plain_loop_over_positions(family: str) -> None:
    model, ids = tiny.model(family), tiny.ids(3, 10)
    losses = []
    for row in ids:
        with torch.no_grad():
            logits = model(input_ids=row[None], use_cache=False).logits[0].double()
        losses += [-logits[t].log_softmax(-1)[row[t + 1]].item() for t in range(9)]
    found = perplexity(Decoder(model), Windows(ids, "", 0), QUIET)
    assert len(losses) == 27
    assert found["value"] == pytest.approx(math.exp(sum(losses) / 27), rel=1e-5)
    assert (found["tokens"], found["windows"], found["length"]) == (30, 3, 10)


def test_a_batch_split_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, data = Decoder(tiny.model()), Windows(tiny.ids(6, 12), "", 0)
    whole = perplexity(decoder, data, QUIET)["value"]
    monkeypatch.setattr(Decoder, "batch_tokens", 12)
    assert perplexity(decoder, data, QUIET)["value"] == pytest.approx(whole, rel=1e-6)


def test_windows_limits_the_measurement_to_the_first_ones() -> None:
    decoder, ids = Decoder(tiny.model()), tiny.ids(6, 12)
    limited = perplexity(decoder, Windows(ids, "", 0).first(2), QUIET)
    assert limited == perplexity(decoder, Windows(ids[:2], "", 0), QUIET)


def test_the_last_partial_window_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(tiny.text(50))
    tokens = len(tiny.tokenizer()(file.read_text(), add_special_tokens=False)["input_ids"])
    assert len(text_windows(tiny.tokenizer(), str(file), 16)) == tokens // 16


@pytest.mark.parametrize(("tied", "copies"), [(True, 1), (False, 2)])
def test_shared_embeddings_are_counted_once(tied: bool, copies: int) -> None:
    model = tiny.model("llama", tie_word_embeddings=tied)
    found = size(Decoder(model), torch.bfloat16)
    assert found.parameters_embeddings == copies * tiny.VOCABULARY * 32
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.bytes == 2 * found.parameters
    assert found.layers == tiny.LAYERS
