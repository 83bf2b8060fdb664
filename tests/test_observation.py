"""`lowrise observe`: its numbers against their definitions, and its files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.model.decoder import Decoder
from lowrise.observe.analysis import analyse
from lowrise.progress import Reporter
from lowrise.results import Seen


def found_for(family: str) -> tuple[Seen, Decoder, Windows]:
    decoder = Decoder(tiny.model(family))
    windows = Windows(tiny.ids(rows=3, tokens=24), "made up", 0)
    return analyse(decoder, windows, Reporter(quiet=True)), decoder, windows


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@torch.no_grad()
def test_cosines_are_those_of_the_states(family: str) -> None:
    found, decoder, windows = found_for(family)
    states = [h.double() for _, h in decoder.states(windows.ids)]
    for i, one in enumerate(states):
        for j, other in enumerate(states):
            expected = float(torch.cosine_similarity(one, other, dim=-1).mean())
            assert found.pairs[i][j] == pytest.approx(expected, abs=1e-5)
    assert found.input_output == [found.pairs[layer][layer + 1] for layer in range(tiny.LAYERS)]
    flat = [float(torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean()) for a, b in itertools.pairwise(states)]
    assert found.flattened == pytest.approx(flat, abs=1e-5)
    assert found.norms.largest == pytest.approx([float(h.norm(dim=-1).max()) for h in states], rel=1e-5)


def test_matrices_are_compared_with_the_next_layers() -> None:
    found, decoder, _ = found_for("llama")
    rows = found.matrices["mlp.up_proj.weight"]
    a, b = (decoder.layers[layer].mlp.up_proj.weight.detach().double() for layer in (2, 3))
    apart, norms = float((a - b).norm()), [float(a.norm()), float(b.norm())]
    assert rows.norm[2:4] == pytest.approx(norms, rel=1e-5)
    assert rows.distance[2] == pytest.approx(apart, rel=1e-5)
    assert rows.similarity[2] == pytest.approx(1 - apart / sum(norms), rel=1e-4)
    assert rows.cosine[2] == pytest.approx(float((a * b).sum()) / (norms[0] * norms[1]), abs=1e-5)
    assert set(found.matrices) == {n for n, p in decoder.layers[0].named_parameters() if p.dim() == 2}
    assert all(len(values) == tiny.LAYERS - 1 for values in (rows.distance, rows.similarity, rows.cosine))


def test_equal_and_opposite_matrices() -> None:
    decoder = Decoder(tiny.model("llama"))
    with torch.no_grad():
        decoder.layers[1].load_state_dict(decoder.layers[0].state_dict())
        decoder.layers[2].mlp.up_proj.weight.copy_(-decoder.layers[1].mlp.up_proj.weight)
    rows = analyse(decoder, Windows(tiny.ids(), "", 0), Reporter(quiet=True)).matrices["mlp.up_proj.weight"]
    assert rows.similarity[:2] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert rows.cosine[:2] == pytest.approx([1.0, -1.0], abs=1e-6)


def test_the_command_writes_numbers_and_pictures(tmp_path: Path, tiny_folder: Path, text_file: Path, main: Any) -> None:
    out = tmp_path / "seen"
    asked = ["observe", tiny_folder, "--text", text_file, "--samples", 4, "--length", 32, "--out", out]
    status, printed, err = main(*asked)
    assert status == 0, err
    assert str(out) in printed
    assert {file.name for file in out.iterdir()} == {
        "observation.json", "input-output.svg", "pairs.svg", "matrices.svg", "norms.svg",
    }  # fmt: skip
    data = json.loads((out / "observation.json").read_text())
    assert len(data["pairs"]) == tiny.LAYERS + 1 and data["calibration"]["samples"] == 4
    status, _, err = main(*asked)
    assert status == 2 and len(err.strip().splitlines()) == 1
