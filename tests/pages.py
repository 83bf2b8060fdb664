"""What the page tests share: results of every kind that a page shows (DESIGN, results.json), and a look into HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

QUICK = ["--samples", "10", "--length", "32", "--quiet"]
FILES = ("lowrise/report.html", "README.md")
# As the measurements write them: two tasks of several choices, one of generated answers.
TASKS: dict[str, Any] = {
    "tasks": {
        "local_arc_easy": {
            "acc": 0.46, "acc_stderr": 0.025, "acc_norm": 0.42, "acc_norm_stderr": 0.0247, "n": 400, "chance": 0.25,
            "fewshot": 0,
        },
        "local_boolq": {"acc": 0.575, "acc_stderr": 0.0247, "n": 400, "chance": 0.5, "fewshot": 0},
        "local_gsm8k": {"exact_match": 0.01, "exact_match_stderr": 0.007, "n": 200, "fewshot": 5},
    },
    "stability": {"local_arc_easy": 0.731, "local_boolq": None},
    "agreement": {"local_arc_easy": 0.7, "local_boolq": 0.61},
}  # fmt: skip
DENSE_TASKS: dict[str, Any] = {
    "local_arc_easy": {
        "acc": 0.61, "acc_stderr": 0.0244, "acc_norm": 0.555, "acc_norm_stderr": 0.0249, "n": 400, "chance": 0.25,
        "fewshot": 0,
    },
    "local_boolq": {"acc": 0.6125, "acc_stderr": 0.0244, "n": 400, "chance": 0.5, "fewshot": 0},
    "local_gsm8k": {"exact_match": 0.02, "exact_match_stderr": 0.01, "n": 200, "fewshot": 5},
}  # fmt: skip
RETAINED: dict[str, Any] = {
    "tasks": {
        "local_arc_easy": {
            "metric": "acc_norm",
            "ratio": 0.757, "ratio_low": 0.69, "ratio_high": 0.82, "above_chance": 0.557, "above_chance_low": 0.43,
            "above_chance_high": 0.68,
        },
        "local_boolq": {
            "metric": "acc",
            "ratio": 0.939, "ratio_low": 0.87, "ratio_high": 1.01, "above_chance": 0.667, "above_chance_low": 0.31,
            "above_chance_high": 1.06,
        },
        "local_gsm8k": {
            "metric": "exact_match", "ratio": 0.5, "ratio_low": None, "ratio_high": None, "above_chance": None,
            "above_chance_low": None, "above_chance_high": None, "reason_above_chance": "the task has no chance level",
        },
    },
    "tasks_mean": {
        "ratio": 0.848, "ratio_low": 0.80, "ratio_high": 0.90, "above_chance": 0.612, "above_chance_low": 0.42,
        "above_chance_high": 0.8,
    },
}  # fmt: skip

HEALING: dict[str, Any] = {
    "objective": "kl", "temperature": 1.0, "trained": "all", "parameters": 1000, "teacher": "resident", "tokens": 64,
    "steps": 2, "batch_tokens": 32, "length": 32, "learning_rate": 2e-4, "precision": "no", "processes": 1,
    "seconds": 1.0, "tokens_per_second": 64.0, "train": [(32, 0.5), (64, 0.4)], "held_out": {"a.txt": [(0, 3.0)]},
    "guard": "a.txt", "kept": 0, "before": {}, "after": {},
}  # fmt: skip


def _pace(factor: float) -> dict[str, Any]:
    def rate(value: float) -> dict[str, float]:
        return {"tokens_per_second": value * factor, "low": value * factor * 0.97, "high": value * factor * 1.02}

    return {
        "prefill": {"1": rate(2150.0)},
        "decode": {"1": rate(27.3), "8": rate(143.0)},
        "first_token_seconds": {"median": 0.24 / factor, "low": 0.235 / factor, "high": 0.25 / factor},
        "kv_bytes_per_token": round(23040 / factor),
        "peak_bytes": 1_100_000_000,
    }


SPEED: dict[str, Any] = {
    "dense": _pace(1.0),
    "compressed": _pace(1.24),
    "ratio": {
        "prefill": {"1": {"median": 1.23, "low": 1.2, "high": 1.26}},
        "decode": {"1": {"median": 1.24, "low": 1.2, "high": 1.25}, "8": {"median": 1.22, "low": 1.2, "high": 1.25}},
    },
    "ideal": {
        "prefill": {"1": {"ratio": 1.27, "share": 0.97}},
        "decode": {"1": {"ratio": 1.29, "share": 0.96}, "8": {"ratio": 1.28, "share": 0.95}},
    },
    "settings": {
        "prompt_tokens": 256, "new_tokens": 32, "rounds": 7, "device": "cpu", "dtype": "float32", "threads": 1,
    },
}  # fmt: skip


_KINDS: dict[str, dict[str, Any]] = {
    "layer": {"preset": "streamline", "training": {"epochs": 2}, "samples": 10},
    "none": {"preset": "streamline-none", "samples": 10},
    "paper": {"preset": "streamline-ffn", "training": {"epochs": 2}, "samples": 10},
    "merge": {"preset": "laco-mean", "merge_search": {"combine": 3}},
    "search": {"preset": "refit", "samples": 64},
    "span search": {"preset": "refit-span", "samples": 64},
    "weights": {"preset": "block-influence", "samples": 10},
}


def make_folders(place: Path, model: Path, text: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """What `lowrise run` writes: two of six layers gone; `layer` is measured on a text of its own."""
    from lowrise import pipeline
    from lowrise.progress import Reporter
    from lowrise.recipe import build_recipe

    common: dict[str, Any] = {"model": str(model), "text": [str(text)], "remove": "2", "length": 32, "windows": 4}
    for kind in kinds:
        measured = {"eval_text": [str(text)]} if kind == "layer" else {}
        pipeline.run(build_recipe(common, measured, _KINDS[kind]), place / kind, False, Reporter(quiet=True))
    return {kind: place / kind for kind in kinds}


def add_everything(folder: Path) -> None:
    """Into the results of a run: tasks, stability, retained, speed."""
    change_results(folder, **TASKS, speed=SPEED)
    results = read_results(folder)
    results["dense"]["tasks"] = DENSE_TASKS
    results["retained"] |= RETAINED
    change_results(folder, **results)


def read_results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "lowrise/results.json").read_text(encoding="utf-8"))
    return found


def change_results(folder: Path, **changes: Any) -> None:
    (folder / "lowrise/results.json").write_text(json.dumps(read_results(folder) | changes), encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, the text that a reader sees, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["script"]:
            attributes, so_far = self.scripts[-1]
            self.scripts[-1] = attributes, so_far + data
        elif not self._inside:
            self.text += data

    def ids(self) -> set[str]:
        return {str(attributes["id"]) for _, attributes in self.tags if "id" in attributes}

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def page_of(folder: Path) -> Page:
    return Page((folder / "lowrise/report.html").read_text(encoding="utf-8"))
