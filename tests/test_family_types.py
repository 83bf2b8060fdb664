"""Types of models that transformers knows, tiny and random: one line each. `scripts/families.py` tries all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import lowrise
import tiny
from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.following import ROWS
from lowrise.model.probing import unknown_rows
from lowrise.restriction import AllowedCuts
from tiny_families import causal_types, tiny_model

PAGE = Path(__file__).resolve().parent.parent / "docs" / "families.md"
GONE = 2


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]


def cut(decoder: Decoder) -> list[int]:
    """Two layers go, the first that may; which they were."""
    gone = AllowedCuts(len(decoder), decoder.restrictions).least([float(i) for i in range(len(decoder))], GONE)
    assert gone is not None
    decoder.check_cut([layer for layer in range(len(decoder)) if layer not in gone])
    with decoder.several_cuts():
        for layer in reversed(gone):
            decoder.drop(layer, layer + 1)
    return gone


@pytest.mark.parametrize(
    "kind",
    [
        "deepseek_v3",  # a boundary of dense layers, latent attention
        "deepseek_v4",  # several streams side by side
        "gemma3n_text",  # shared keys and values, an input of its own for each layer, several streams, streams first
        "gemma4_text",  # overrides by layer number
        "glm4_moe",
        "granitemoehybrid",
        "jamba",  # two periods that no list stands beside
        "lfm2",  # convolutions
        "llama4_text",  # numbers of layers
        "longcat_flash",  # two caches a layer
        "nemotron_h",
        "qwen3_next",  # gated delta nets, a step between sparse layers
        "rwkv",  # its stream is halved every few layers, outside of them; the first stays
    ],
)
def test_what_is_left_computes_what_skipping_computes_and_loads(kind: str, tmp_path: Path) -> None:
    skipping, model, ids = tiny_model(kind), tiny_model(kind), tiny.ids()
    gone = cut(Decoder(model))
    with Decoder(skipping).skipping(gone):
        assert torch.equal(logits(model, ids), logits(skipping, ids))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert len(Decoder(loaded)) == 8 - GONE
    assert torch.equal(logits(loaded, ids), logits(model, ids))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("diffllama", "lambda_init is"),
        ("inkling2_text", "given to layer 4"),  # the stream is added to outside of the layers
        ("hy_v4", "another prev_topk_indices given to layer 1"),
        ("cpmant", "a stream of"),
    ],
)
def test_what_ties_layers_to_each_other_or_their_position_is_refused_by_the_difference(kind: str, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        _ = Decoder(tiny_model(kind)).restrictions


@torch.no_grad()
def test_rwkv_without_its_halving_computes_the_same_also_when_it_has_run() -> None:
    model, ids = tiny_model("rwkv"), tiny.ids()
    model.config.rescale_every = 3
    before = logits(model, ids)
    assert model.base_model.layers_are_rescaled
    divided = model.base_model.blocks[7].attention.output.weight.clone()
    Decoder(model)
    assert model.config.rescale_every == 0
    assert torch.equal(model.base_model.blocks[7].attention.output.weight, 4 * divided)
    assert torch.allclose(logits(model, ids), before, atol=1e-5)


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba"])
def test_a_model_that_no_load_gives_back_is_refused(kind: str, tmp_path: Path) -> None:
    """Until transformers spares loaded matrices, which this says when it happens."""
    model, ids = tiny_model(kind, switches=["rescale_prenorm_residual"]), tiny.ids()
    model.save_pretrained(tmp_path)
    assert not torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), ids), logits(model, ids))
    tiny.tokenizer().save_pretrained(tmp_path)
    for opening in (lambda: lowrise.wrap(model, tiny.tokenizer()), lambda: lowrise.open(tmp_path)):
        with pytest.raises(ModelError, match=r"set it to false in config\.json"):
            opening()


def test_a_layer_that_lends_its_keys_cannot_go() -> None:
    decoder = Decoder(tiny_model("gemma3n_text"))
    with pytest.raises(ModelError, match="take keys and values from layers 3 and 4, which stay"):
        decoder.check_cut([0, 1, 2, 3, 5, 6, 7])


def test_a_setting_that_is_in_no_table_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny_model("deepseek_v3"))
    monkeypatch.delitem(ROWS, "first_k_dense_replace")  # type: ignore[arg-type]
    assert unknown_rows(decoder.model, decoder.layers_path, "model", []) == {"first_k_dense_replace": "first"}


def test_what_was_skipped_is_back_even_when_it_fails() -> None:
    decoder = Decoder(tiny.model())
    stack = decoder.layers
    with pytest.raises(RuntimeError), decoder.skipping([1]):
        raise RuntimeError
    assert decoder.layers is stack


# -- all of them ------------------------------------------------------------------------------------------------------


def rows() -> list[tuple[str, str]]:
    """(type, row) of the committed page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [(line.split("`")[1], line) for line in lines if line.startswith("| `")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "row"), rows())
def test_a_type_does_what_the_page_says(kind: str, row: str, tmp_path: Path) -> None:
    sys.path.append(str(PAGE.parent.parent / "scripts"))
    from families import COLUMNS, UNTRIED, scan

    states = [state.strip() for state in row.split("|")[2:-1]]
    tried = [column for column, state in zip(COLUMNS, states, strict=True) if state != UNTRIED]
    assert scan(kind, tmp_path, tried).row == row


def test_the_page_lists_every_type_that_transformers_has() -> None:
    not_built = {
        line.split("`")[1]
        for line in PAGE.read_text(encoding="utf-8").partition("## Not built")[2].splitlines()
        if line.startswith("- `")
    }
    assert {kind for kind, _ in rows()} | not_built == set(causal_types())


def test_no_type_ends_in_a_traceback() -> None:
    assert not [row for _, row in rows() if "traceback" in row]
