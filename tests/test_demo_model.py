"""The real model, SmolLM2-135M from its GGUF file: fetched by scripts/fetch_demo_model.py, skipped never."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from transformers import AutoModelForCausalLM

from lowrise.calibration import calibration_windows
from lowrise.model.source import OpenModel, open_model
from lowrise.progress import Reporter

pytestmark = pytest.mark.slow

MODEL = Path(__file__).resolve().parent.parent / ".demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SETTINGS = {"samples": 8, "length": 256, "seed": 0}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "topics.txt"
    file.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(str(MODEL), device="cpu")


def naive_cosines(opened: OpenModel, text: Path, n: int) -> torch.Tensor:
    """All hidden states from hooks on the layers, kept; plain cosine a token, mean over all tokens."""
    windows = calibration_windows(
        opened.decoder, opened.tokenizer, text=[str(text)], dataset=None, report=Reporter(quiet=True), **SETTINGS
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
    lowrise: Callable[..., object], opened: OpenModel, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    chosen = ["--preset", "streamline-none", "--remove", "8", "--text", text]
    done = lowrise("run", MODEL, *chosen, *settings, "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    plan = json.loads((out / "lowrise/plan.json").read_text())
    expected = naive_cosines(opened, text, 8)
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


def test_a_truncated_copy_is_refused_in_one_line(lowrise: Callable[..., object], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(MODEL.read_bytes()[:-1_000_000])
    done = lowrise("measure", broken)
    assert done.returncode == 2  # type: ignore[attr-defined]
    assert len(done.stderr.splitlines()) == 1, done.stderr  # type: ignore[attr-defined]
    assert str(broken) in done.stderr  # type: ignore[attr-defined]
