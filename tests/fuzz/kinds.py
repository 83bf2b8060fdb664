"""One function a kind of input: it writes a damaged input into the sandbox and says which command reads it."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from fuzz.mutations import ODD_TEXTS, Mutator
from fuzz.sound import SHORT

_LONG = 20_000  # tokens, from where on a calibration is not computed here: it would be sound, and slow


@dataclass(frozen=True)
class Case:
    """arguments: of `lowrise`. statuses: it may end with. writes: what it may change in the sandbox."""

    arguments: list[Any]
    statuses: tuple[int, ...] = (0, 2)
    writes: tuple[str, ...] = ("place", "cache")
    around: Any = field(default_factory=contextlib.nullcontext)


_METHODS: list[dict[str, Any]] = [
    {"preset": "streamline-none", "samples": 4, "length": 16},
    {"preset": "streamline-none", "avoid_massive": True},
    {"preset": "refit", "search_budget": 1, "samples": 4, "calibration_length": 16},
    {"preset": "laco", "merge_search": {"combine": 2, "low": 0, "high": 3, "interval": 1, "words": 8, "rule": "sum"}},
    {"preset": "streamline-ffn", "form": "portable", "training": {"epochs": 1, "validation": 0.5, "warmup": 0.1}},
]


def recipe(mutator: Mutator, base: Path, box: Path) -> Case:
    sound: dict[str, Any] = {"model": str(base / "model"), "text": [str(base / "text.txt")], "remove": 1}
    sound |= mutator.choice(_METHODS)
    others = {
        "seed": 0,
        "device": "cpu",
        "synthetic_share": 0.25,
        "dtype": "auto",
        "max_ram": "1G",
        "tasks": [],
        "windows": 2,
    }
    others |= {"eval_text": [str(base / "text.txt")], "trust_remote_code": False, "speed": False}
    kept = sound | {key: value for key, value in others.items() if mutator.random() < 0.3}
    file = box / "in" / "recipe.yaml"
    file.write_bytes(mutator.yaml(kept))
    if mutator.random() < 0.1:
        mutator.place(file)
    small = SHORT if mutator.random() < 0.5 else ["--quiet"]
    return Case(["plan", "--recipe", file, *small, "--out", box / "place" / "p.json"], around=unless_long())


def options(mutator: Mutator, base: Path, box: Path) -> Case:
    """Every option that `plan` and `run` take, with odd texts behind it."""
    from lowrise.options import OPENING, OPTIONS, SEARCHING, SELECTING

    arguments: list[Any] = ["plan", base / "model", "--preset", "streamline-none", "--remove", "1", *SHORT]
    arguments += ["--text", base / "text.txt"]
    for _ in range(mutator.choice([1, 1, 2, 3])):
        name = mutator.choice([*SELECTING, *SEARCHING, *OPENING, "eval_text", "nonsense"])
        values = [
            *ODD_TEXTS,
            "0",
            "1",
            "2",
            "3",
            "0.5",
            "-0.5",
            "99999999999999999999",
            "refit",
            "laco",
            "fold",
            "ffn",
            "float16",
            "cuda:99",
            "meta",
        ]
        text = mutator.choice(values).replace("\0", "")
        arguments.append(f"--{name.replace('_', '-')}")
        if "bool" not in str(OPTIONS.get(name)):
            arguments.append(text)
    if mutator.random() < 0.1:
        arguments[mutator.randrange(len(arguments))] = mutator.choice(ODD_TEXTS)
    arguments += ["--out", box / "place" / "p.json"]  # last, and never damaged: it stays within the sandbox
    return Case(arguments, around=unless_long())


def plan(mutator: Mutator, base: Path, box: Path) -> Case:
    sound = json.loads((base / "run" / "lowrise" / "plan.json").read_text(encoding="utf-8"))
    sound["edits"] = mutator.choice(
        [
            sound["edits"],
            [{"kind": "merge", "start": 0, "stop": 2, "rule": "sum"}],
            [{"kind": "fold", "start": 1, "stop": 2}],
            [{"kind": "refit", "start": 1, "stop": 2}],
        ]
    )
    file = box / "in" / "plan.json"
    file.write_bytes(mutator.json(sound))
    if mutator.random() < 0.1:
        mutator.place(file)
    text = ["--text", base / "text.txt", "--quiet"]
    return Case(["apply", base / "model", file, *text, "--out", box / "place" / "out"], around=unless_long())


_SIDE_FILES = ["generation_config.json", "tokenizer_config.json", "tokenizer.json"]


def config(mutator: Mutator, base: Path, box: Path) -> Case:
    folder = _model(base, box)
    file = folder / mutator.choice(["config.json"] * 5 + _SIDE_FILES)
    sound = json.loads(file.read_text(encoding="utf-8"))
    if mutator.random() < 0.2:
        sound |= {"quantization_config": {"quant_method": "gptq"}, "auto_map": {"AutoConfig": "a.B"}}
    file.write_bytes(mutator.json(sound))
    if mutator.random() < 0.1:
        mutator.place(file)
    return Case(["measure", folder, "--text", base / "text.txt", "--windows", 1, "--length", 16, "--quiet"])


def readme(mutator: Mutator, base: Path, box: Path) -> Case:
    folder = _model(base, box)
    sound = {"license": "other", "license_name": "x", "license_link": "LICENSE", "tags": ["a"], "base_model": "a/b"}
    file = folder / "README.md"
    file.write_bytes(b"---\n" + mutator.yaml(sound) + b"\n---\n\n# A model\n")
    if mutator.random() < 0.15:
        mutator.place(file)
    return Case(["presets"], around=_card(folder))


@contextlib.contextmanager
def _card(folder: Path) -> Iterator[None]:
    """What writing a model card does with the base's: a whole run for every header would take too long."""
    from lowrise.model.inherited import inherited_metadata

    assert all(isinstance(value, str) for value in inherited_metadata(folder).values())
    yield


def safetensors(mutator: Mutator, base: Path, box: Path) -> Case:
    folder = _model(base, box)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    kind = mutator.randrange(10)
    if kind < 6:
        names = mutator.sample(sorted(header), 2)
        damaged = mutator.tree({name: header[name] for name in names})
        rest = {name: value for name, value in header.items() if name not in names}
        made = json.dumps({**rest, **damaged} if isinstance(damaged, dict) else damaged).encode()
        file.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + length :])
    elif kind < 8:
        file.write_bytes(mutator.bytes(content, most=8 + length))
    elif kind < 9:
        made = mutator.json(header)
        said = mutator.choice([len(made), len(made) + 1, 2**63, 2**64 - 1, 200_000_000, 0])
        file.write_bytes(struct.pack("<Q", said) + made + content[8 + length :])
    else:
        names = [*header, "x"]
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_bytes(mutator.json(index))
    if mutator.random() < 0.05:
        mutator.place(file)
    return Case(["measure", folder, "--quiet"])


def gguf(mutator: Mutator, base: Path, box: Path) -> Case:
    file = box / "in" / "model.gguf"
    content = (base / "model.gguf").read_bytes()
    made = bytearray(content)
    end = content.index(b"output_norm") if b"output_norm" in content else 4000
    kind = mutator.randrange(4)
    if kind == 0:
        at = mutator.choice([4, 8, 16])  # version, tensors, keys
        made[at : at + 8] = mutator.choice([0, 1, 2**31, 2**63, 2**64 - 1, 7]).to_bytes(8, "little")
    elif kind == 1:
        name = mutator.choice(
            [b"llama.block_count", b"llama.context_length", b"tokenizer.ggml.tokens", b"general.architecture"]
        )
        at = content.find(name) + len(name)
        made[at : at + 12] = mutator.randbytes(12) if mutator.random() < 0.5 else bytes([9, 0, 0, 0]) * 3
    else:
        made = bytearray(mutator.bytes(content, most=mutator.choice([64, 600, end + 3000])))
    file.write_bytes(bytes(made))
    if mutator.random() < 0.05:
        mutator.place(file)
    return Case(["measure", file, "--quiet"])


def text(mutator: Mutator, base: Path, box: Path) -> Case:
    file = (
        box
        / "in"
        / mutator.choice(["text.txt", "a [b] c.txt", "[red].txt", "\x1b[31m.txt", "é.txt", "x" * 200, "a\nb"])
    )
    sound = (base / "text.txt").read_bytes()
    odd = [
        b"\xff" * 100,
        b"\0" * 5000,
        "\u2028".encode() * 500,
        b"<s></s>" * 300,
        b"a" * 100_000,
        b" " * 5000,
        b"\r" * 999 + sound,
    ]
    odd += ["\U0001f98a".encode() * 2000, b"\xef\xbb\xbf" + sound, sound.replace(b" ", b"\n"), b"\x1b[31m" * 500, b"x"]
    file.write_bytes(mutator.bytes(sound) if mutator.random() < 0.5 else mutator.choice(odd))
    if mutator.random() < 0.2:
        mutator.place(file)
    if mutator.random() < 0.6:
        return Case(["measure", base / "model", "--text", file, "--length", 16, "--windows", 1, "--quiet"])
    cut = ["--preset", mutator.choice(["streamline-none", "laco"]), "--remove", "1", "--text", file, *SHORT]
    return Case(["plan", base / "model", *cut, "--out", box / "place" / "p.json"])


def comparison(mutator: Mutator, base: Path, box: Path) -> Case:
    """Every file of a finished comparison; steps that must be done again fail at once here."""
    folder = box / "place" / "c"
    shutil.copytree(base / "comparison", folder)
    files = sorted(path for path in folder.rglob("*.json"))
    file = mutator.choice(files)
    file.write_bytes(mutator.json(json.loads(file.read_text(encoding="utf-8"))))
    if mutator.random() < 0.15:
        mutator.place(file)
    wanted = ["compare", base / "model", "--presets", "streamline-none", "--remove", "1", "--text", base / "text.txt"]
    wanted += ["--eval-text", base / "text.txt", "--windows", "2", *SHORT, "--out", folder]
    return Case(wanted, statuses=(0, 1, 2), around=_without_steps())


@contextlib.contextmanager
def _without_steps() -> Iterator[None]:
    from lowrise.compare.child import StepResult

    def step(_arguments: object, log: Path, *_: object) -> StepResult:
        log.write_text("lowrise: not here\n", encoding="utf-8")
        return StepResult(1, log, 0.0)

    with mock.patch("lowrise.compare.steps.run_step", step), mock.patch("lowrise.compare.draw_comparison"):
        yield


def cache(mutator: Mutator, base: Path, box: Path) -> Case:
    """Kept measurements: each file damaged, then shown, cleared, or asked for again."""
    kept = base / "cache"
    shutil.copytree(kept, box / "cache")
    files = sorted((box / "cache").glob("*.json"))
    for file in files:
        if mutator.random() < 0.5:
            file.write_bytes(mutator.json(json.loads(file.read_text(encoding="utf-8"))))
        if mutator.random() < 0.15:
            mutator.place(file)
    sides = ["--text", base / "text.txt", "--length", "16", "--windows", "2", "--quiet"]
    asked = [["cache"], ["cache", "--json"], ["cache", "--clear"], ["measure", base / "model", *sides]]
    return Case(mutator.choice(asked), statuses=(0,))


def folder(mutator: Mutator, base: Path, box: Path) -> Case:
    """The numbers, plan and recipe of a finished run, which a page is made of."""
    out = box / "in" / mutator.choice(["run", "[bold]", "a b"])
    shutil.copytree(base / "run", out, ignore=shutil.ignore_patterns("*.safetensors"))
    side = out / "lowrise"
    file = side / mutator.choice(["results.json", "results.json", "plan.json", "observation.json", "recipe.yaml"])
    if file.suffix == ".yaml":
        file.write_bytes(mutator.bytes(file.read_bytes()))
    else:
        file.write_bytes(mutator.json(json.loads(file.read_text(encoding="utf-8"))))
    if mutator.random() < 0.1:
        mutator.place(file)
    pages = (f"in/{out.name}/README.md", f"in/{out.name}/lowrise/report.html")
    return Case(["report", out], writes=("place", "cache", *pages))


def tasks(mutator: Mutator, base: Path, box: Path) -> Case:
    place = box / "in" / "tasks"
    place.mkdir()
    rows = [{"q": f"ab {i}", "choices": ["cd", "ef"], "answer": i % 2} for i in range(4)]
    (place / "rows.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sound = {
        "task": "tiny", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place / "rows.json")}},
        "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    file = place / "tiny.yaml"
    file.write_bytes(mutator.yaml(sound))
    if mutator.random() < 0.2:
        file.write_text(yaml.safe_dump({"include": mutator.choice(["tiny.yaml", "x.yaml", "/dev/zero", 5, "a"])}))
    if mutator.random() < 0.2:
        mutator.place(file)
    return Case(
        ["measure", base / "model", "--task-dir", place, "--tasks", "tiny", "--limit", "1", "--quiet"],
        writes=("home", "cache"),
        around=_without_lm_evals_own(box),
    )


def _without_lm_evals_own(box: Path) -> Any:
    """Reading lm-eval's own 14,000 task files takes 15 seconds."""
    return mock.patch("lm_eval.tasks.manager.__file__", str(box / "lm-eval" / "manager.py"))


@contextlib.contextmanager
def unless_long() -> Iterator[None]:
    """Where a calibration would be sound but long, the command ends, all that can be refused being refused."""
    from lowrise import pipeline

    made = {name: getattr(pipeline, name) for name in ("windows_or_sentences", "calibrate", "plan_edits")}

    def stopping(name: str) -> Callable[..., Any]:
        def wrapped(run: Any, *rest: Any) -> Any:
            recipe = run.recipe
            if (
                recipe.samples * recipe.fitted_length > _LONG
                or recipe.search_budget > 4
                or (recipe.training.epochs or 1) > 4
            ):
                sys.exit(0)
            return made[name](run, *rest)

        return wrapped

    with contextlib.ExitStack() as stack:
        for name in made:
            stack.enter_context(mock.patch.object(pipeline, name, stopping(name)))
        yield


def _model(base: Path, box: Path) -> Path:
    return Path(shutil.copytree(base / "model", box / "in" / "model"))


KINDS: dict[str, Callable[[Mutator, Path, Path], Case]] = {
    "recipe": recipe,
    "options": options,
    "plan": plan,
    "config": config,
    "readme": readme,
    "safetensors": safetensors,
    "gguf": gguf,
    "text": text,
    "comparison": comparison,
    "cache": cache,
    "folder": folder,
    "tasks": tasks,
}
