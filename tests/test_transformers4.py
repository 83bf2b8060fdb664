"""Readers on transformers 4 open what lowrise writes, with the same settings, tokens and logits: in a Python of theirs.

The folder that goes first on its path is made by scripts/transformers4.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

import mixtures
import multimodal
import tiny
from cuts import cut, logits
from lowrise.engines import check

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("transformers 4")]

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "Some words, 12 numbers; émigrés & <s> what looks special </s>\n\n  def f(x):\n\treturn x"
# Equal but for what each version rounds in its own order, as a share of the largest logit.
SAME = 2e-6

_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 3e4, "factor": 4.0, "original_max_position_embeddings": 32}
_LONG = {"rope_type": "longrope", "rope_theta": 2e4, "short_factor": [1.0, 1.1, 1.2, 1.3],
         "long_factor": [2.0, 3.0, 4.0, 5.0]}  # fmt: skip
_BY_KIND = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in tiny.FAMILIES},
    "theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 3e4, "factor": 2.0}}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 3e4, "factor": 2.0}}),
    "llama3": ("llama", {"rope_parameters": _LLAMA3}),
    "yarn": ("qwen2", {"rope_parameters": _YARN}),
    "longrope": ("phi3", {"rope_parameters": _LONG, "original_max_position_embeddings": 16, "sliding_window": None}),
    "by kind": ("gemma3_text", {"rope_parameters": _BY_KIND}),
    "partial": (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 0.5}},
    ),
}

_READER = """
import sys, torch, transformers
from transformers import AutoConfig, AutoTokenizer
given, text, opener, *folders = torch.load(sys.argv[1])
assert transformers.__version__.startswith("4."), transformers.__version__
for folder in folders:
    model = getattr(transformers, opener).from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**given, use_cache=False).logits
    found = {
        "version": transformers.__version__, "logits": logits, "tokens": tokenizer(text)["input_ids"],
        "plain": tokenizer(text, add_special_tokens=False)["input_ids"], "dtype": model.dtype,
        "special": tokenizer.special_tokens_map, "config": AutoConfig.from_pretrained(folder).to_dict(),
    }
    torch.save(found, folder + "/read-by-4.pt")
"""


def read_by_4(
    folders: list[Path],
    place: Path,
    opener: type = AutoModelForCausalLM,
    given: dict[str, torch.Tensor] | None = None,
) -> list[dict[str, Any]]:
    """What a Python with transformers 4 finds in each folder, with logits of what is given: by default token ids."""
    asked = place / "asked.pt"
    torch.save([given or {"input_ids": tiny.ids(tokens=32)}, TEXT, opener.__name__, *map(str, folders)], asked)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".transformers4"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(asked)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / "read-by-4.pt", weights_only=False) for folder in folders]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every case without two of its layers, and what transformers 4 finds in it: opened once, which takes seconds."""
    place = tmp_path_factory.mktemp("transformers4")
    folders = {}
    for name, (family, changes) in CASES.items():
        folders[name] = place / f"{name}-cut".replace(" ", "-")
        cut(tiny.save(place / name.replace(" ", "-"), family, **changes), folders[name])
    return dict(zip(folders, zip(folders.values(), read_by_4([*folders.values()], place), strict=True), strict=True))


def assert_same(folder: Path, theirs: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = logits(model, tiny.ids(tokens=32))
    assert (theirs["logits"] - ours).abs().max() <= SAME * ours.abs().max()
    assert theirs["dtype"] == torch.float32  # what version 4 opens without being told
    assert theirs["tokens"] == tokenizer(TEXT)["input_ids"]
    assert theirs["plain"] == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert theirs["special"].items() <= tokenizer.special_tokens_map.items()  # version 5 has defaults of its own
    config = AutoConfig.from_pretrained(folder)
    said = str(theirs["config"]["dtype"] or theirs["config"]["torch_dtype"])
    assert said.removeprefix("torch.") == str(config.dtype).removeprefix("torch.")
    rope = getattr(config, "rope_parameters", None)
    if rope is not None:
        assert theirs["config"]["rope_theta"] == rope.get("full_attention", rope)["rope_theta"]


@pytest.mark.parametrize("name", CASES)
def test_tiny_models(made: dict[str, tuple[Path, dict[str, Any]]], name: str) -> None:
    assert_same(*made[name])


def test_the_text_of_multimodal_models(tmp_path: Path) -> None:
    """A head that is tied in some of them, and positions of three parts in others: text_config has to say both."""
    ids = tiny.ids(tokens=32).clamp(max=multimodal.IMAGE - 1)
    kinds = ("qwen2_5_vl", "qwen3_vl", "mistral3", "internvl", "smolvlm", "llama4")
    folders = [tmp_path / f"{kind}-cut" for kind in kinds]
    for kind, out in zip(kinds, folders, strict=True):
        cut(multimodal.save(tmp_path / kind, kind), out, 3, 5)
    for out, theirs in zip(
        folders, read_by_4(folders, tmp_path, AutoModelForImageTextToText, {"input_ids": ids}), strict=True
    ):
        model = AutoModelForImageTextToText.from_pretrained(out, attn_implementation="eager", dtype="auto").eval()
        ours = logits(model, ids)
        assert (theirs["logits"] - ours).abs().max() <= SAME * ours.abs().max(), out.name


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_images_of_multimodal_models_as_they_are_published(kind: str, tmp_path: Path) -> None:
    """With their tower's weights where version 4 looks for them, which a cut leaves there."""
    folder, out, given = multimodal.save(tmp_path / kind, kind), tmp_path / "out", multimodal.with_image(kind)
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    cut(folder, out, 3, 5)
    assert {verdict.fate for verdict in check(out, ["transformers4"])} == {"opens"}
    (theirs,) = read_by_4([out], tmp_path, AutoModelForImageTextToText, given)
    model = AutoModelForImageTextToText.from_pretrained(out, attn_implementation="eager", dtype="auto").eval()
    with torch.no_grad():
        ours = model(**given, use_cache=False).logits
    assert (theirs["logits"] - ours).abs().max() <= SAME * ours.abs().max()


def test_a_mixture_whose_count_of_experts_has_another_word(tmp_path: Path) -> None:
    mixtures.model("qwen3_moe").save_pretrained(tmp_path / "dense")
    tiny.tokenizer().save_pretrained(tmp_path / "dense")
    cut(tmp_path / "dense", tmp_path / "out")
    assert_same(tmp_path / "out", *read_by_4([tmp_path / "out"], tmp_path))


def test_the_demo_model(tmp_path: Path) -> None:
    """Its tokenizer is no file, so version 5 writes it."""
    cut(DEMO, tmp_path / "out", 10, 18)
    assert_same(tmp_path / "out", *read_by_4([tmp_path / "out"], tmp_path))
