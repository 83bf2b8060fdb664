"""The sound inputs that are damaged: a model of three small layers, a text, a plan, finished folders."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tiny

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "num_attention_heads": 2,
}
SHORT = ["--length", "16", "--samples", "4", "--device", "cpu", "--quiet"]


def make(base: Path) -> Path:
    """All of them below `base`, each made by the command line itself; `run/` and `comparison/` are finished."""
    base.mkdir()
    with mock.patch.dict(os.environ, LOWRISE_CACHE=str(base / "cache")), little_text():
        _make(base)
    return base


@contextlib.contextmanager
def little_text() -> Iterator[None]:
    """Models write two tokens behind a prompt: when they are made as when they are read, for what is kept is known by
    how many they are.
    """
    with (
        mock.patch("lowrise.measure.samples.NEW_TOKENS", 2),
        mock.patch("lowrise.measure.greedy_text.NEW_TOKENS", 2),
    ):
        yield


def _make(base: Path) -> None:
    tiny.save(base / "model", **SIZES)
    tiny.save_gguf(base / "model.gguf")
    (base / "text.txt").write_text(tiny.text(200), encoding="utf-8")
    model, text = base / "model", base / "text.txt"
    cut = [
        "--preset",
        "streamline-none",
        "--remove",
        "1",
        "--text",
        text,
        "--eval-text",
        text,
        "--windows",
        "2",
        *SHORT,
    ]
    command("run", model, *cut, "--out", base / "run")
    sides = ["--text", text, "--length", "16", "--windows", "2", "--quiet"]
    command("measure", model, *sides, "--out", base / "dense.json")
    _compared(base)


def command(*arguments: object) -> None:
    from lowrise import cli

    before, sys.argv = sys.argv, ["lowrise", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, arguments
    finally:
        sys.argv = before


def asked(base: Path) -> Any:
    from lowrise.compare import ask

    texts = {"text": [str(base / "text.txt")], "eval_text": [str(base / "text.txt")]}
    small = {"length": 16, "samples": 4, "windows": 2, "device": "cpu"}
    return ask(["streamline-none"], ["1"], [{"model": str(base / "model"), **texts, **small}], "")


def _compared(base: Path) -> None:
    """A finished comparison of one row, as `lowrise compare` leaves it."""
    from lowrise.compare.folder import ASKED, DENSE, PREPARED
    from lowrise.files.sealed import write_state

    folder, question = base / "comparison", asked(base).to_json()
    plan, results = _json(base, "run/lowrise/plan.json"), _json(base, "run/lowrise/results.json")
    row = {"status": "done", "seconds": 1.0, "results": results, "plan": plan, "kept": False}
    prepared = {"model": plan["model"], "layers": 3, "removed": {"1": 1}, "seconds": {"open": 1.0}}
    parts: dict[str | Path, dict[str, Any]] = {
        PREPARED: {**prepared, "asked": json.loads(question)},
        DENSE: _json(base, "dense.json"),
        Path("rows", "streamline-none-1", "row.json"): row,
    }
    for name, content in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_state(folder / name, content)
    (folder / ASKED).write_text(question, encoding="utf-8")


def _json(base: Path, name: str) -> Any:
    return json.loads((base / name).read_text(encoding="utf-8"))
